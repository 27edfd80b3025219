"""The stimuli of a testbench: what it feeds the reference, taken down in order.

    testbench + recorder in the design's place (holds the reference) --simulate--> every input vector, in order

Only trusted code runs here. The recorder notes its inputs when it starts and whenever one of them changes, so it also
sees what happens between two moments of simulated time: an edge of the clock, then the data that follow it. What the
testbench says of the reference is read in the same run.

A testbench that sets data at the very edge that the design waits for leaves it to the simulator which of the two comes
first, and the recorder may see it the other way round. The reference shows it, and such a problem is not split
(problem.py).
"""

import re
import secrets
from dataclasses import dataclass

from reward.deadline import Deadline
from reward.sandbox import Ending, Sandbox
from reward.verilog.design import Design
from reward.verilog.interface import Interface
from reward.verilog.simulate import COMPILE_FAILED, MAX_OUTPUT_BYTES, no_trace, run_tool
from reward.verilog.stimuli import Stimuli
from reward.verilog.testbench import Bench, read_verdict
from reward.verilog.traces import NoTrace

BENCH_CPU_S = 8  # of a testbench: it runs as long as its author liked
MAX_VECTORS = 1 << 18
SCRIPT = """
ulimit -S -t {compile_cpu_s}
iverilog -g2012 -s {top} -o s.vvp bench.sv >&2 || {{ echo "compiler exit status $?" >&2; exit {failed}; }}
ulimit -S -t {bench_cpu_s}
exec vvp -n s.vvp -none
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """What a testbench did with its reference: `stimuli`, None where they cannot be told; and what it said."""

    stimuli: Stimuli | None
    passed: bool
    why: str


def record(
    sandbox: Sandbox,
    bench: Bench,
    reference: Design,
    interface: Interface,
    *,
    compile_cpu_s: int,
    deadline: Deadline,
) -> Recording | NoTrace:
    """Run the testbench around the reference. NoTrace where nothing came of it."""
    nonce = "t" + secrets.token_hex(8)
    text = f"{bench.text}{recorder(bench.top_module, reference, interface, nonce)}"
    script = SCRIPT.format(compile_cpu_s=compile_cpu_s, bench_cpu_s=BENCH_CPU_S, failed=COMPILE_FAILED, top=bench.top)
    finished = run_tool(sandbox, script, {"bench.sv": text.encode()}, max(compile_cpu_s, BENCH_CPU_S), deadline)
    if finished.status != 0 or finished.ending != Ending.EXITED:
        return no_trace(finished, finished.stderr.decode(errors="replace"))
    printed = finished.stdout.decode(errors="replace")
    said = read_verdict(printed)
    vectors = tuple(re.findall(rf"{nonce}\*([01xz]*)", printed))
    stimuli = None
    if printed.count(f"{nonce}^") != 1:
        why = "the testbench has not exactly one instance of the design"
    elif (
        len(vectors) > MAX_VECTORS or len(vectors) * max(interface.input_bits, interface.output_bits) > MAX_OUTPUT_BYTES
    ):
        why = f"the testbench changes its inputs {len(vectors)} times"
    else:
        from_start = bool(interface.inputs) and f"{nonce}~" not in printed
        stimuli, why = Stimuli(vectors=vectors, from_start=from_start, seconds=finished.seconds), ""
    return Recording(stimuli=stimuli, passed=said.passed, why=why if said.passed else said.detail)


def recorder(name: str, reference: Design, interface: Interface, nonce: str) -> str:
    """A module called `name` that is the reference, and prints its inputs. No testbench can print its marks.

    Marks: `^` one instance starts, `*bits` the inputs, `~` a change that ends in the first vector again, so that it was
    seen half and what came before it is not known.
    """
    connections = ", ".join(f".{port.name} ({port.name})" for port in (*interface.inputs, *interface.outputs))
    lines = [
        reference.render(nonce),
        interface.header(name, "wire"),
        f"{reference.top_name(nonce)} {nonce}u ({connections});",
    ]
    if interface.inputs:
        last, first, inputs = f"{nonce}l", f"{nonce}f", f"{{{interface.input_names}}}"
        show = f'$display("\\n{nonce}*%b", {last});'
        lines += [
            f"reg [{interface.input_bits - 1}:0] {last}; reg {first};",
            f'initial begin $display("\\n{nonce}^"); {first} = 1; {last} = {inputs}; {show} end',
            f"task {nonce}step; if ({inputs} !== {last}) begin {first} = 0; {last} = {inputs}; {show} end",
            f'else if ({first}) begin {first} = 0; $display("\\n{nonce}~"); end endtask',
            f"always @({interface.input_names}) {nonce}step;",
        ]
    else:
        lines.append(f'initial $display("\\n{nonce}^\\n{nonce}*");')
    return "\n".join([*lines, "endmodule\n"])
