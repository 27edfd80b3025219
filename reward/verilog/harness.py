"""Testbench, reference and design in one simulation: for problems that cannot be split (problem.py).

The judgement is then only as good as the testbench: verdicts carry the component `trusted_harness` = 0. What the policy
leaves a design cannot print, end the simulation or name anything outside. A wrapper around it (wrapper.py) sees which
outputs are never known, and a success is asked for again with unknown outputs made known. A design that drives its
inputs, which the reference also sees, is refused by what the compiler says of it.
"""

import re
import secrets
from dataclasses import dataclass

from reward.deadline import Deadline
from reward.messages import Status
from reward.sandbox import Ending, Finished, Sandbox
from reward.verilog.design import Design
from reward.verilog.recording import SCRIPT
from reward.verilog.simulate import COMPILE_FAILED, no_trace, run_tool
from reward.verilog.testbench import Bench, Said, read_verdict
from reward.verilog.traces import NoTrace
from reward.verilog.wrapper import Wrapper

DRIVEN = re.compile(r"^bench\.sv:(\d+): warning: input port (\S+) is coerced to inout", re.MULTILINE)
NEVER_KNOWN = "the testbench reports success, but an output is never known"
BASELESS = "the testbench reports success, but not if outputs that are unknown were known"

KnownBit = tuple[str, int]  # path of an instance, position in its outputs
DrivenPort = tuple[str, str]  # line of an instance, name of an input that something inside it drives


@dataclass(frozen=True, slots=True, kw_only=True)
class Joint:
    """A testbench around the design itself.

    wrapper    what stands between the two
    reference  what the design is to be like, for its unknown outputs
    known      output bits that the reference knows somewhere, so that a design that never does is wrong
    driven     what the compiler says of the reference already
    knowing    the reference passes with its unknown outputs made known too, so a design must
    cpu_s      CPU seconds that a simulation may take
    """

    bench: Bench
    wrapper: Wrapper
    reference: Design
    known: frozenset[KnownBit] = frozenset()
    driven: frozenset[DrivenPort] = frozenset()
    knowing: bool = False
    cpu_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What the testbench says, which output bits were ever known, and which inputs are driven from inside."""

    said: Said
    known: frozenset[KnownBit]
    driven: frozenset[DrivenPort]


class Harness:
    """One simulation per design, two or three for one that passes, in the sandbox. Safe to share between threads."""

    def __init__(self, sandbox: Sandbox, compile_cpu_s: int) -> None:
        self._sandbox = sandbox
        self._compile_cpu_s = compile_cpu_s

    def judge(self, joint: Joint, design: Design, timescale: str, deadline: Deadline) -> Said | NoTrace:
        """Run the testbench around the design and read what it says.

        `timescale` is the directive of the design's source, or nothing: its delays then count in the testbench's unit.
        """
        ran = self.run(joint, design, timescale, deadline)
        if isinstance(ran, NoTrace):
            return ran
        driven = ran.driven - joint.driven
        if driven:
            detail = f"the design drives its input {min(name for _, name in driven)}"
            return NoTrace(status=Status.MALFORMED, detail=detail, compiled=True, ports=False)
        if not ran.said.passed:
            return ran.said
        if joint.known - ran.known:
            return Said(passed=False, match=0.0, detail=NEVER_KNOWN)
        return self.made_known(joint, design, timescale, deadline) if joint.knowing else ran.said

    def run(self, joint: Joint, design: Design, timescale: str, deadline: Deadline) -> Ran | NoTrace:
        nonce = "t" + secrets.token_hex(8)
        text = joint.wrapper.around(design, joint.bench.top_module, timescale=timescale, watch=nonce)
        finished = self._finished(joint, text, deadline)
        said = finished.stderr.decode(errors="replace")
        if finished.ending != Ending.EXITED or finished.status != 0:
            return no_trace(finished, said)
        printed = finished.stdout.decode(errors="replace")
        known = {path: bits for bits, path in re.findall(rf"^{nonce}\+([01]+) (.*)", printed, re.MULTILINE)}
        inside = str(joint.bench.text.count("\n") + text.count("\n"))  # the design's own line
        return Ran(
            said=read_verdict(printed),
            known=frozenset((path, at) for path, bits in known.items() for at, bit in enumerate(bits) if bit == "1"),
            driven=frozenset((line, name) for line, name in DRIVEN.findall(said) if line != inside),
        )

    def made_known(self, joint: Joint, design: Design, timescale: str, deadline: Deadline) -> Said | NoTrace:
        """What the testbench says if the output bits that only the reference knows were all 0, or else all 1."""
        for bit in "01":
            text = joint.wrapper.knowing(design, joint.bench.top_module, joint.reference, bit, timescale=timescale)
            finished = self._finished(joint, text, deadline)
            if finished.ending != Ending.EXITED or finished.status != 0:
                return no_trace(finished, finished.stderr.decode(errors="replace"))
            said = read_verdict(finished.stdout.decode(errors="replace"))
            if said.passed:
                return said
        return Said(passed=False, match=0.0, detail=BASELESS)

    def _finished(self, joint: Joint, text: str, deadline: Deadline) -> Finished:
        script = SCRIPT.format(
            compile_cpu_s=self._compile_cpu_s, bench_cpu_s=joint.cpu_s, failed=COMPILE_FAILED, top=joint.bench.top
        )
        files = {"bench.sv": (joint.bench.text + text).encode()}
        return run_tool(self._sandbox, script, files, max(self._compile_cpu_s, joint.cpu_s), deadline)
