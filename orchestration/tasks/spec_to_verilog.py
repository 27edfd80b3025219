"""Task source of the quickstart: a Boolean specification in words becomes a Verilog module, judged by simulation.

    a nand not c then nor b      ->      module m(input a, input b, input c, output y);
                                           assign y = ~(~(a & ~c) | b);
                                         endmodule

There are 7 776 specifications. The split is by text: held-out texts share their sub-phrases, and often their function
of three inputs, with training texts.

The demonstrations carry a *systematic* bug, on purpose: in most of them the inversion of nand, nor and xnor, and of
`not`, is lost, as in a scrape of careless code. A policy that imitates them is wrong in its mode, not just noisy, and
the reward has to change its mind. Bias and noise were chosen so that it starts near 0.25 (ours: the task is made to
show learning).
"""

import random
from dataclasses import dataclass

from orchestration.tasks import procedural
from orchestration.tasks.split import check_fraction, fingerprint, is_heldout
from orchestration.tasks.task import Task

INPUTS = ("a", "b", "c")
HEADER = "module m(input a, input b, input c, output y);\n  assign y = "
FOOTER = ";\nendmodule"

# word -> (symbol, the result is inverted)
GATES = {
    "and": ("&", False),
    "or": ("|", False),
    "xor": ("^", False),
    "nand": ("&", True),
    "nor": ("|", True),
    "xnor": ("^", True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Literal:
    """An input, or its inverse."""

    name: str
    inverted: bool

    @property
    def words(self) -> str:
        return f"not {self.name}" if self.inverted else self.name

    @property
    def verilog(self) -> str:
        return f"~{self.name}" if self.inverted else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """A two-input operator, maybe followed by an inverter."""

    symbol: str
    inverted: bool

    def applied_to(self, left: str, right: str) -> str:
        return f"~({left} {self.symbol} {right})" if self.inverted else f"({left} {self.symbol} {right})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Circuit:
    """`second(first(left, right), last)`: what a module computes, right or wrong."""

    first: Gate
    second: Gate
    left: Literal
    right: Literal
    last: Literal

    def module(self) -> str:
        inner = self.first.applied_to(self.left.verilog, self.right.verilog)
        outer = self.second.applied_to(inner, self.last.verilog)
        return HEADER + (outer if self.second.inverted else outer[1:-1]) + FOOTER


@dataclass(frozen=True, slots=True, kw_only=True)
class Specification:
    """The words of one task: gates by name, literals as they are."""

    first: str
    second: str
    left: Literal
    right: Literal
    last: Literal

    @property
    def prompt(self) -> str:
        return f"{self.left.words} {self.first} {self.right.words} then {self.second} {self.last.words}\n"

    def circuit(self) -> Circuit:
        return Circuit(
            first=gate(self.first), second=gate(self.second), left=self.left, right=self.right, last=self.last
        )


def gate(word: str) -> Gate:
    symbol, inverted = GATES[word]
    return Gate(symbol=symbol, inverted=inverted)


@dataclass(frozen=True, kw_only=True)
class SpecToVerilog:
    """Two-operator specifications over a, b and c. Implements TaskSource and Demonstrator.

    negation          probability that a literal of a specification says `not`
    heldout_fraction  of all prompts, by hash
    bias              demonstrations: probability that a gate's inversion is lost, and that all the `not`s are
    noise             demonstrations: a gate is replaced by any other at noise / 2, the first literal at noise / 3
    max_tokens        of a response; a right answer has at most 12 with the tiny policy's tokenizer
    """

    negation: float = 0.25
    heldout_fraction: float = 0.125
    bias: float = 0.7
    noise: float = 0.2
    max_tokens: int = 20
    chat: bool = False

    def __post_init__(self) -> None:
        check_fraction(type(self).__name__, self.heldout_fraction)

    @property
    def boilerplate(self) -> tuple[str, ...]:
        """Text that is the same in every response; the tokenizer may make one token of each."""
        return HEADER, FOOTER

    def check(self) -> None:
        """Nothing outside this file is needed."""

    def train_task(self, index: int, seed: int) -> Task:
        return procedural.train_task(self._draw, index, seed, self.heldout_fraction)

    def heldout_tasks(self, count: int) -> list[Task]:
        return procedural.heldout_tasks(self._draw, count, self.heldout_fraction)

    def demonstration(self, rng: random.Random) -> tuple[str, str]:
        """A prompt that is not held out, and a response with the systematic bug described above."""
        while True:
            specification = self._specification(rng)
            if not is_heldout(specification.prompt, self.heldout_fraction):
                return specification.prompt, self._careless(specification, rng).module()

    def _draw(self, rng: random.Random) -> Task:
        specification = self._specification(rng)
        return Task(
            id=f"spec_to_verilog-{fingerprint(specification.prompt)}",
            prompt=specification.prompt,
            verifier="verilog",
            reference={
                "reference_source": specification.circuit().module(),
                "top_module": "m",
                "testbench": None,  # the verifier applies all eight inputs itself
            },
        )

    def _specification(self, rng: random.Random) -> Specification:
        words = list(GATES)
        left, right, last = (Literal(name=rng.choice(INPUTS), inverted=rng.random() < self.negation) for _ in range(3))
        return Specification(first=rng.choice(words), second=rng.choice(words), left=left, right=right, last=last)

    def _careless(self, specification: Specification, rng: random.Random) -> Circuit:
        left, right, last = specification.left, specification.right, specification.last
        if rng.random() < self.noise / 3:
            left = Literal(name=rng.choice(INPUTS), inverted=rng.random() < 0.5)
        if rng.random() < self.bias:
            left, right, last = (Literal(name=literal.name, inverted=False) for literal in (left, right, last))
        return Circuit(
            first=self._careless_gate(specification.first, rng),
            second=self._careless_gate(specification.second, rng),
            left=left,
            right=right,
            last=last,
        )

    def _careless_gate(self, word: str, rng: random.Random) -> Gate:
        if rng.random() < self.noise / 2:
            word = rng.choice(list(GATES))
        meant = gate(word)
        return Gate(symbol=meant.symbol, inverted=meant.inverted and rng.random() >= self.bias)
