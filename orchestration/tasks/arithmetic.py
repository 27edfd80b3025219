"""Task sources of computed sums: a*b+c with written steps for the tiny policy, one-digit sums for a pretrained one.

    Arithmetic    23*4+17=      ->   80+12=92;92+17=109
    OneDigit      What is 7 + 5? ...   ->   12

As in spec_to_verilog, the demonstrations of `Arithmetic` carry a systematic bug that the reward has to undo: most
of them stop before the last step, at the product. Beside that bug, the policy's own slips remain to be unlearnt.
"""

import random
from dataclasses import dataclass
from typing import Literal

from orchestration.tasks import procedural
from orchestration.tasks.errors import TaskError
from orchestration.tasks.split import check_fraction, fingerprint, is_heldout
from orchestration.tasks.task import Task


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """a*b+c with 11 <= a <= 29, 2 <= b <= 4, 1 <= c <= 29: 1 653 prompts. Implements TaskSource and Demonstrator.

    heldout_fraction  of all prompts, by hash
    bias              demonstrations: probability that the last step is left out
    max_tokens        of a response; a right answer has at most 21 with the tiny policy's tokenizer
    """

    heldout_fraction: float = 0.125
    bias: float = 0.6
    max_tokens: int = 24
    chat: bool = False

    def __post_init__(self) -> None:
        check_fraction(type(self).__name__, self.heldout_fraction)

    @property
    def boilerplate(self) -> tuple[str, ...]:
        """Nothing is the same in every response."""
        return ()

    def check(self) -> None:
        """Nothing outside this file is needed."""

    def train_task(self, index: int, seed: int) -> Task:
        return procedural.train_task(self._draw, index, seed, self.heldout_fraction)

    def heldout_tasks(self, count: int) -> list[Task]:
        return procedural.heldout_tasks(self._draw, count, self.heldout_fraction)

    def demonstration(self, rng: random.Random) -> tuple[str, str]:
        """A prompt that is not held out, and the written steps with the systematic bug described above."""
        while True:
            a, b, c = self._numbers(rng)
            if not is_heldout(self._prompt(a, b, c), self.heldout_fraction):
                return self._prompt(a, b, c), self._steps(a, b, c, rng)

    def _draw(self, rng: random.Random) -> Task:
        a, b, c = self._numbers(rng)
        prompt = self._prompt(a, b, c)
        return Task(
            id=f"arithmetic-{fingerprint(prompt)}",
            prompt=prompt,
            verifier="math",
            reference={"answer": str(a * b + c)},
        )

    def _numbers(self, rng: random.Random) -> tuple[int, int, int]:
        return rng.randint(11, 29), rng.randint(2, 4), rng.randint(1, 29)

    def _prompt(self, a: int, b: int, c: int) -> str:
        return f"{a}*{b}+{c}=\n"

    def _steps(self, a: int, b: int, c: int, rng: random.Random) -> str:
        tens, ones = a // 10 * 10, a % 10
        product = a * b
        steps = f"{tens * b}+{ones * b}={product}"
        return steps if rng.random() < self.bias else f"{steps};{product}+{c}={product + c}"


@dataclass(frozen=True, kw_only=True)
class OneDigit:
    """Two numbers from 0 to 9, asked in words: 100 prompts, for a small pretrained chat model. Implements TaskSource.

    The split is by the unordered pair, so 5 + 7 is held out exactly when 7 + 5 is.

    operation         what is asked
    heldout_fraction  of all pairs, by hash
    """

    operation: Literal["sum", "product"] = "sum"
    heldout_fraction: float = 0.3
    max_tokens: int = 24
    chat: bool = True

    def __post_init__(self) -> None:
        check_fraction(type(self).__name__, self.heldout_fraction)
        if self.operation not in ("sum", "product"):
            raise TaskError(f"OneDigit.operation is sum or product, got {self.operation}")

    def check(self) -> None:
        """Nothing outside this file is needed."""

    def train_task(self, index: int, seed: int) -> Task:
        return procedural.train_task(self._draw, index, seed, self.heldout_fraction, self._deciding)

    def heldout_tasks(self, count: int) -> list[Task]:
        return procedural.heldout_tasks(self._draw, count, self.heldout_fraction, self._deciding)

    def _draw(self, rng: random.Random) -> Task:
        a, b = rng.randint(0, 9), rng.randint(0, 9)
        sign, answer = ("+", a + b) if self.operation == "sum" else ("*", a * b)
        prompt = f"What is {a} {sign} {b}? Answer with the number only."
        return Task(
            id=f"one_digit-{fingerprint(prompt)}", prompt=prompt, verifier="math", reference={"answer": str(answer)}
        )

    def _deciding(self, task: Task) -> str:
        return f"{self.operation} of {sorted(character for character in task.prompt if character.isdigit())}"
