"""Testbench, reference and design in one simulation: for problems that cannot be split (problem.py).

The judgement is then only as good as the testbench: verdicts carry the component `trusted_harness` = 0. What the policy
leaves a design cannot print, end the simulation or name anything outside, and a wrapper keeps it from driving its own
inputs, which the reference also sees. A testbench whose own race between clock and data the wrapper would decide
otherwise is run without it.
"""

import secrets
from dataclasses import dataclass

from reward.deadline import Deadline
from reward.sandbox import Ending, Sandbox
from reward.verilog.design import Design
from reward.verilog.interface import Interface
from reward.verilog.recording import SCRIPT
from reward.verilog.simulate import COMPILE_FAILED, no_trace, run_tool
from reward.verilog.testbench import Bench, Said, read_verdict
from reward.verilog.traces import NoTrace


@dataclass(frozen=True, slots=True, kw_only=True)
class Joint:
    """A testbench around the design itself.

    interface   None where the design gets no wrapper
    cpu_s       CPU seconds that a simulation may take
    """

    bench: Bench
    interface: Interface | None
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
        bench = joint.bench
        script = SCRIPT.format(
            compile_cpu_s=self._compile_cpu_s, bench_cpu_s=joint.cpu_s, failed=COMPILE_FAILED, top=bench.top
        )
        text = f"{bench.text}{timescale}{wrapped(design, joint.interface, bench.top_module)}"
        cpu_s = max(self._compile_cpu_s, joint.cpu_s)
        finished = run_tool(self._sandbox, script, {"bench.sv": text.encode()}, cpu_s, deadline)
        if finished.ending != Ending.EXITED or finished.status != 0:
            return no_trace(finished, finished.stderr.decode(errors="replace"))
        return read_verdict(finished.stdout.decode(errors="replace"))


def wrapped(design: Design, interface: Interface | None, name: str) -> str:
    """The design behind a module called `name` that passes its inputs one way only.

    Reference and response get the same wrapper, so a race between clock and data in a testbench ends alike for both.
    """
    nonce = "t" + secrets.token_hex(8)
    if interface is None:
        return design.render(nonce, top_name=name) + "\n"
    # an operator, unlike a plain name, makes a net of its own that nothing inside can pull back
    connections = [f".{port.name} ({port.name} & {{{port.width}{{1'b1}}}})" for port in interface.inputs]
    connections += [f".{port.name} ({port.name})" for port in interface.outputs]
    return (
        f"{design.render(nonce)}\n{interface.header(name, 'wire')}\n"
        f"{design.top_name(nonce)} {nonce}u ({', '.join(connections)});\nendmodule\n"
    )
