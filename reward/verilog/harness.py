"""Testbench, reference and design in one simulation: for problems that cannot be split (problem.py).

The judgement is then only as good as the testbench: verdicts carry the component `trusted_harness` = 0. What the policy
leaves a design cannot print, end the simulation or name anything outside, and a wrapper keeps it from driving its own
inputs, which the reference also sees. A testbench that gives the design parameters, or whose own race between clock and
data the wrapper would decide otherwise, is run without it; then a design that drives its inputs is refused before.
"""

import re
import secrets
from dataclasses import dataclass

from reward.deadline import Deadline
from reward.messages import Status
from reward.sandbox import Ending, Sandbox
from reward.verilog.design import Design
from reward.verilog.interface import Interface
from reward.verilog.recording import SCRIPT
from reward.verilog.simulate import COMPILE_FAILED, no_trace, run_tool
from reward.verilog.testbench import Bench, Said, read_verdict
from reward.verilog.traces import NoTrace

CHECK = """
ulimit -S -t {compile_cpu_s}
iverilog -g2012 -t null -s {top} check.sv >&2 || {{ echo "compiler exit status $?" >&2; exit {failed}; }}
"""
DRIVEN = re.compile(r"warning: input port (\S+) is coerced to inout")  # the compiler says it of every driven input


@dataclass(frozen=True, slots=True, kw_only=True)
class Joint:
    """A testbench around the design itself.

    interface   None where the design gets no wrapper
    inputs      then, of what interface it must drive no input; None where that is not known
    known       output bits that the reference knows somewhere, so that a design that never does is wrong; without a
                wrapper nobody looks
    cpu_s       CPU seconds that a simulation may take
    """

    bench: Bench
    interface: Interface | None
    inputs: Interface | None = None
    known: frozenset[int] = frozenset()
    cpu_s: int


class Harness:
    """One simulation per design, in the sandbox. Safe to share between threads."""

    def __init__(self, sandbox: Sandbox, compile_cpu_s: int) -> None:
        self._sandbox = sandbox
        self._compile_cpu_s = compile_cpu_s

    def judge(self, joint: Joint, design: Design, timescale: str, deadline: Deadline) -> Said | NoTrace:
        """Run the testbench around the design and read what it says.

        `timescale` is the directive of the design's source, or nothing: its delays then count in the testbench's unit.
        """
        said, known = self.run(joint, design, timescale, deadline)
        if isinstance(said, Said) and said.passed and joint.known - known:
            return Said(passed=False, match=0.0, detail="the testbench reports success, but an output is never known")
        return said

    def run(
        self, joint: Joint, design: Design, timescale: str, deadline: Deadline
    ) -> tuple[Said | NoTrace, frozenset[int]]:
        """What the testbench says, and which output bits were ever known, as far as somebody looks."""
        bench, nonce = joint.bench, "t" + secrets.token_hex(8)
        if joint.interface is None and joint.inputs is not None:
            refused = self._refused(design, joint.inputs, deadline)
            if refused is not None:
                return refused, frozenset()
        script = SCRIPT.format(
            compile_cpu_s=self._compile_cpu_s, bench_cpu_s=joint.cpu_s, failed=COMPILE_FAILED, top=bench.top
        )
        text = f"{bench.text}{timescale}{wrapped(design, joint.interface, bench.top_module, watch=nonce)}"
        cpu_s = max(self._compile_cpu_s, joint.cpu_s)
        finished = run_tool(self._sandbox, script, {"bench.sv": text.encode()}, cpu_s, deadline)
        if finished.ending != Ending.EXITED or finished.status != 0:
            return no_trace(finished, finished.stderr.decode(errors="replace")), frozenset()
        printed = finished.stdout.decode(errors="replace")
        seen = re.findall(rf"{nonce}\+([01]+)", printed)
        known = frozenset(index for index, bit in enumerate(seen[-1] if seen else "") if bit == "1")
        return read_verdict(printed), known

    def _refused(self, design: Design, interface: Interface, deadline: Deadline) -> NoTrace | None:
        """What becomes of a design that drives its inputs, from within or as ports that are none."""
        name = "t" + secrets.token_hex(8)
        script = CHECK.format(compile_cpu_s=self._compile_cpu_s, failed=COMPILE_FAILED, top=name)
        files = {"check.sv": check(design, interface, name).encode()}
        finished = run_tool(self._sandbox, script, files, self._compile_cpu_s, deadline)
        said = finished.stderr.decode(errors="replace")
        if finished.ending != Ending.EXITED or finished.status != 0:
            return no_trace(finished, said)
        driven = set(DRIVEN.findall(said)) & {port.name for port in interface.inputs}
        if not driven:
            return None
        return NoTrace(
            status=Status.MALFORMED, detail=f"the design drives its input {min(driven)}", compiled=True, ports=False
        )


def check(design: Design, interface: Interface, name: str) -> str:
    """A module that the compiler says of which inputs of the design are driven, and refuses where one is no input."""
    names = [port.name for port in (*interface.inputs, *interface.outputs)]
    wires = "".join(f"wire [{port.width - 1}:0] {port.name}; " for port in (*interface.inputs, *interface.outputs))
    connections = ", ".join(f".{name} ({name})" for name in names)
    return (
        f"{wrapped(design, interface, f'{name}w')}{wrapped(design, None, f'{name}d')}"
        f"module {name}; {wires}{name}w {name}1 ({connections}); {name}d {name}2 ({connections}); endmodule\n"
    )


def wrapped(design: Design, interface: Interface | None, name: str, watch: str | None = None) -> str:
    """The design behind a module called `name` that passes its inputs one way only.

    With `watch` it prints, after `<watch>+`, which output bits have been 0 or 1, whenever these become more. Reference
    and response get the same wrapper, so a race between clock and data in a testbench ends alike for both.
    """
    nonce = "t" + secrets.token_hex(8)
    if interface is None:
        return design.render(nonce, top_name=name) + "\n"
    # an operator, unlike a plain name, makes a net of its own that nothing inside can pull back
    connections = [f".{port.name} ({port.name} & {{{port.width}{{1'b1}}}})" for port in interface.inputs]
    connections += [f".{port.name} ({port.name})" for port in interface.outputs]
    return (
        f"{design.render(nonce)}\n{interface.header(name, 'wire')}\n"
        f"{design.top_name(nonce)} {nonce}u ({', '.join(connections)});\n"
        f"{'' if watch is None else watcher(interface, watch)}endmodule\n"
    )


def watcher(interface: Interface, mark: str) -> str:
    outputs, seen, before, index = (mark + end for end in "oski")
    high = interface.output_bits - 1
    return f"""wire [{high}:0] {outputs} = {{{interface.output_names}}};
reg [{high}:0] {seen} = 0, {before} = 0;
integer {index};
always begin
  if (!(&{seen})) begin
    for ({index} = 0; {index} <= {high}; {index} = {index} + 1)
      if (({outputs}[{index}] ^ {outputs}[{index}]) === 1'b0) {seen}[{index}] = 1;
    if ({seen} != {before}) begin {before} = {seen}; $display("\\n{mark}+%b", {seen}); end
  end
  @({outputs});
end
"""
