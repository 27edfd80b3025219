"""A testbench that judges by itself, as text: VerilogEval's (`Mismatches: 0 in N samples`) and RTLLM's kind.

testbench, reference, top_module --> Bench: what stands around the design, whoever takes the design's place
what a simulation printed        --> the testbench's own judgement
"""

import re
from dataclasses import dataclass

from pyslang import SourceManager
from pyslang.parsing import Token
from pyslang.syntax import SyntaxKind, SyntaxNode, SyntaxTree

from reward.errors import UnusableReference
from reward.verilog.design import Design, deep
from reward.verilog.directives import checked_source
from reward.verilog.shell import Given, given_in
from reward.verilog.syntax import declared_in

UNIT = SyntaxKind.CompilationUnit
MAX_TESTBENCH_CHARS = 1 << 20
WORD = re.compile(r"[A-Za-z_]\w*")
MISMATCHES = re.compile(r"^Mismatches:\s*(\d+) in\s*(\d+) samples", re.MULTILINE)
PASSED = re.compile(r"Your Design Passed", re.IGNORECASE)
TIMESCALE = re.compile(r"`timescale[ \t]+(?:1|10|100)[ \t]*[munpf]?s[ \t]*/[ \t]*(?:1|10|100)[ \t]*[munpf]?s\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """The testbench of a problem.

    top_module   the module whose place the design takes
    text         testbench and, where the testbench instantiates it under its own name, the reference
    top          its module that nobody instantiates
    plain        it has one instance of the design's module and gives it no parameters
    given        the parameters that it gives an instance of the design's module or of the reference
    names        every word in `text` but the design's module: what a design beside it must not call or reach into
    shared       names declared outside modules, which a design beside it sees without a path: it must not mention them
    """

    top_module: str
    text: str
    top: str
    plain: bool
    given: Given
    names: frozenset[str]
    shared: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a testbench says of a design. `match`: the fraction of its samples that agree, where it counts them."""

    passed: bool
    match: float
    detail: str


def read_bench(testbench: object, top_module: str, reference: Design, beside: str) -> Bench:
    """`beside`: the reference under its own name, as text. Raises UnusableReference."""
    if not isinstance(testbench, str):
        raise UnusableReference("a verilog reference's testbench is text or null")
    if len(testbench) > MAX_TESTBENCH_CHARS:
        raise UnusableReference(f"a testbench has at most {MAX_TESTBENCH_CHARS} characters, got {len(testbench)}")
    try:
        tree = SyntaxTree.fromText(testbench, SourceManager())
    except RuntimeError as error:  # the parser's own bound on nesting
        raise UnusableReference("the testbench is nested too deeply") from error
    root = tree.root
    outside = [child for child in root if not isinstance(child, Token)] if root.kind == UNIT else [root]
    shared = [declared_in(member) for member in outside if member.kind != SyntaxKind.ModuleDeclaration]
    declared: list[str] = []
    instantiated: dict[str, int] = {}
    given = Given()
    for node in deep(tree.root):
        if node.kind == SyntaxKind.ModuleHeader:
            declared.append(node.name.valueText)
        elif node.kind == SyntaxKind.HierarchyInstantiation:
            name = node.getFirstToken().rawText
            instantiated[name] = instantiated.get(name, 0) + instances(node)
            if name in (top_module, reference.modules[reference.top]):
                given |= given_in(node)
        elif node.kind == SyntaxKind.DefParamAssignment:
            given |= given_in(node)
    tops = [name for name in declared if name not in instantiated]
    if len(tops) != 1 or top_module not in instantiated:
        raise UnusableReference(
            f"a testbench has one top module and instantiates {top_module}; its tops are {', '.join(tops) or 'none'}"
        )
    # a reference called like the wanted module is there for the reader: the testbench instantiates only the latter
    text = testbench if top_module in reference.modules else f"{testbench}\n{beside}"
    return Bench(
        top_module=top_module,
        text=text + "\n",
        top=tops[0],
        plain=not given and instantiated[top_module] == 1,
        given=given,
        names=frozenset(WORD.findall(text)) - {top_module},
        shared=frozenset().union(*shared),
    )


def instances(node: SyntaxNode) -> int:
    return sum(1 for child in deep(node) if child.kind == SyntaxKind.HierarchicalInstance)


def read_verdict(printed: str) -> Said:
    """What a testbench's output says. No known word of success is a failure."""
    counted = MISMATCHES.findall(printed)
    if counted:
        wrong, samples = map(int, counted[-1])
        return Said(
            passed=wrong == 0 and samples > 0,
            match=1.0 - min(1.0, wrong / samples) if samples else 0.0,
            detail=f"the testbench counts {wrong} of {samples} samples as different",
        )
    passed = bool(PASSED.search(printed))
    return Said(
        passed=passed,
        match=float(passed),
        detail="the testbench reports success" if passed else "the testbench does not report success",
    )


def timescale_of(source: str) -> str:
    """The first `timescale directive of a source and a line end, or nothing. Raises Rejected for an unreadable one."""
    found = TIMESCALE.search(checked_source(source))
    return found.group() + "\n" if found else ""
