"""Problems with a testbench that judges by itself: VerilogEval's (`Mismatches: 0 in N samples`) and RTLLM's kind.

The testbench, its reference and the design run in one simulation, so the judgement is only as good as the testbench:
verdicts carry the component `trusted_harness` = 0. What the policy leaves a design cannot print, end the simulation or
name anything outside, and a wrapper keeps it from driving its own inputs, which the reference also sees. A testbench
whose own race between clock and data the wrapper would decide otherwise is run without it.
"""

import contextlib
import re
import secrets
from dataclasses import dataclass

from pyslang import SourceManager
from pyslang.syntax import SyntaxKind, SyntaxNode, SyntaxTree

from reward.config import VerilogConfig
from reward.errors import UnusableReference
from reward.messages import Status
from reward.sandbox import Ending, Limits, Sandbox
from reward.verilog.design import Design, deep, parse_design
from reward.verilog.errors import Rejected
from reward.verilog.interface import Interface, read_interface
from reward.verilog.judgement import Judgement
from reward.verilog.simulate import ATTEMPTS, COMPILE_FAILED, MEMORY_BYTES, no_trace

SCRIPT = """
ulimit -S -t {compile_cpu_s}
iverilog -g2012 -s {top} -o s.vvp harness.sv design.sv >&2 || {{ echo "compiler exit status $?" >&2; exit {failed}; }}
ulimit -S -t {simulate_cpu_s}
exec vvp -n s.vvp -none
"""
SIMULATE_CPU_S = 5  # testbenches run longer than our stimuli
WORD = re.compile(r"[A-Za-z_]\w*")
MISMATCHES = re.compile(r"^Mismatches:\s*(\d+) in\s*(\d+) samples", re.MULTILINE)
PASSED = re.compile(r"Your Design Passed", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, eq=False)
class HarnessProblem:
    """`harness`: testbench and reference as one text; `names`: every word in it; `tests`: its top module."""

    top_module: str
    harness: str
    names: frozenset[str]
    tests: str
    interface: Interface | None  # of the design, where it gets a wrapper
    reference: Design

    @staticmethod
    def read(reference_source: str, top_module: str, testbench: object, *, wrap: bool = True) -> "HarnessProblem":
        """Raises UnusableReference."""
        if not isinstance(testbench, str):
            raise UnusableReference("a verilog reference's testbench is text or null")
        try:
            reference = parse_design(reference_source, None, trusted=True)
        except Rejected as reason:
            raise UnusableReference(f"the reference does not work as a design: {reason}") from reason
        interface = None
        if wrap:
            with contextlib.suppress(UnusableReference, Rejected):
                interface = read_interface(reference_source, reference.modules[reference.top])
        # a reference called like the wanted module is there for the reader: the testbench instantiates only the latter
        beside = (
            "" if top_module in reference.modules else wrapped(reference, interface, reference.modules[reference.top])
        )
        harness = f"{testbench}\n{beside}\n"
        return HarnessProblem(
            top_module=top_module,
            harness=harness,
            names=frozenset(WORD.findall(harness)) - {top_module},
            tests=top_of(testbench, top_module),
            interface=interface,
            reference=reference,
        )


class HarnessRunner:
    """One simulation per design, in the sandbox."""

    def __init__(self, sandbox: Sandbox, config: VerilogConfig, deadline_s: float) -> None:
        self._sandbox = sandbox
        self._compile_cpu_s = config.compile_cpu_s
        self._limits = Limits(
            wall_s=deadline_s, cpu_s=max(config.compile_cpu_s, SIMULATE_CPU_S), memory_bytes=MEMORY_BYTES
        )

    def read(self, reference_source: str, top_module: str, testbench: object) -> HarnessProblem:
        """A problem whose own reference passes its testbench. Raises UnusableReference where it does not."""
        judged = None
        for wrap in (True, False):
            problem = HarnessProblem.read(reference_source, top_module, testbench, wrap=wrap)
            judged = self.judge(problem, problem.reference)
            if judged.reward == 1.0 or not judged.certain:
                return problem
        raise UnusableReference(f"the reference does not pass its own testbench: {judged.detail}")

    def judge(self, problem: HarnessProblem, design: Design) -> Judgement:
        """Run the testbench around the design and read its judgement."""
        files = {
            "harness.sv": problem.harness.encode(),
            "design.sv": wrapped(design, problem.interface, problem.top_module).encode(),
        }
        script = SCRIPT.format(
            compile_cpu_s=self._compile_cpu_s, simulate_cpu_s=SIMULATE_CPU_S, failed=COMPILE_FAILED, top=problem.tests
        )
        for _ in range(ATTEMPTS):
            finished = self._sandbox.run(["sh", "-c", script], files, self._limits)
            if finished.ending != Ending.KILLED:
                break
        said = finished.stderr.decode(errors="replace")
        if finished.ending != Ending.EXITED or finished.status != 0:
            failure = no_trace(finished, said)
            return Judgement(
                status=failure.status,
                components={"parse": 1.0, "compile": float(failure.compiled), "trusted_harness": 0.0},
                detail=failure.detail,
                certain=failure.certain,
            )
        return read_judgement(finished.stdout.decode(errors="replace"))


def read_judgement(printed: str) -> Judgement:
    """What a testbench's output says. No known word of success is a failure."""
    components = {"parse": 1.0, "compile": 1.0, "match": 0.0, "trusted_harness": 0.0}
    counted = MISMATCHES.findall(printed)
    if counted:
        wrong, samples = map(int, counted[-1])
        components["match"] = 1.0 - wrong / samples if samples else 0.0
        passed, detail = wrong == 0 and samples > 0, f"{wrong} of {samples} samples differ"
    else:
        passed = bool(PASSED.search(printed))
        components["match"] = float(passed)
        detail = "the testbench reports success" if passed else "the testbench does not report success"
    return Judgement(status=Status.SCORED, reward=float(passed), components=components, detail=detail)


def wrapped(design: Design, interface: Interface | None, name: str) -> str:
    """The design behind a module called `name` that passes its inputs one way only.

    Reference and response get the same wrapper, so a race between clock and data in a testbench ends alike for both.
    """
    nonce = "t" + secrets.token_hex(8)
    if interface is None:
        return design.render(nonce, top_name=name) + "\n"
    ports = [f"input [{port.width - 1}:0] {port.name}" for port in interface.inputs]
    ports += [f"output [{port.width - 1}:0] {port.name}" for port in interface.outputs]
    # an operator, unlike a plain name, makes a net of its own that nothing inside can pull back
    connections = [f".{port.name} ({port.name} & {{{port.width}{{1'b1}}}})" for port in interface.inputs]
    connections += [f".{port.name} ({port.name})" for port in interface.outputs]
    return (
        f"{design.render(nonce)}\n"
        f"module {name} ({', '.join(ports)});\n"
        f"{design.top_name(nonce)} {nonce}u ({', '.join(connections)});\nendmodule\n"
    )


def top_of(testbench: str, top_module: str) -> str:
    """The one module of a testbench that nobody instantiates. Raises UnusableReference."""
    tree = SyntaxTree.fromText(testbench, SourceManager())
    declared: list[str] = []
    instantiated: set[str] = set()
    for node in deep(tree.root):
        if node.kind == SyntaxKind.ModuleHeader:
            declared.append(first_name(node))
        elif node.kind == SyntaxKind.HierarchyInstantiation:
            instantiated.add(node.getFirstToken().rawText)
    tops = [name for name in declared if name not in instantiated]
    if len(tops) != 1 or top_module not in instantiated:
        raise UnusableReference(
            f"a testbench has one top module and instantiates {top_module}; its tops are {', '.join(tops) or 'none'}"
        )
    return tops[0]


def first_name(header: SyntaxNode) -> str:
    return header.name.valueText
