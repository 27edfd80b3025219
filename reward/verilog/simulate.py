"""Many designs, one simulation: designs and stimuli in, a trace of sampled outputs per design out.

    line 1 .. n       one design each, modules under names nobody can guess
    line n+1 .. 2n    one instance each, with inputs and outputs of its own
    line 2n+1 .. 3n   apply a vector to one instance each
    then              wait, write all outputs as one row of bits

Designs that share a simulation cannot see each other. What one can do to the others is end the whole: not compile,
never settle, use up memory. Then the guilty are named by the compiler's line numbers, or found by splitting, so that
each design gets the outcome it would have had alone. The clock of a design runs while its simulations do.
"""

import math
import re
import secrets
import time
from collections import deque
from collections.abc import Mapping, Sequence

from reward.config import VerilogConfig
from reward.deadline import Deadline
from reward.messages import Status
from reward.sandbox import Ending, Finished, Limits, Sandbox
from reward.verilog.clock import Clock, running
from reward.verilog.design import Design
from reward.verilog.interface import Interface
from reward.verilog.stimuli import Stimuli
from reward.verilog.traces import UNKNOWN, NoTrace, Outcome, Trace

SETTLE = 1000  # time units between a vector and its sample; a looped design has one unit per assignment
MAX_OUTPUT_BYTES = 8 << 20
MAX_ROW_BITS = 8192
LINES_EACH = 3
GROUP_S = 2.0  # a group under long stimuli is as large as fits into so much simulation
SLOWER = 4  # times the reference's time that one design of a group may take on top under long stimuli
PARTS = 8  # a group too big for its limits is split into so many
ATTEMPTS = 3  # a simulation that somebody else kills is run again
COMPILE_FAILED = 90  # exit status of SCRIPT
SCRIPT = """
ulimit -S -t {compile_cpu_s}
iverilog -g2012 -Wportbind -o s.vvp s.v >&2 || {{ echo "compiler exit status $?" >&2; exit {failed}; }}
ulimit -S -t {simulate_cpu_s}
exec vvp -n s.vvp
"""
BLAME = re.compile(r"^s\.v:(\d+): (error|syntax error|sorry|assert|warning): ?(.*)", re.MULTILINE)
SYNTAX = re.compile(r"^s\.v:(\d+): syntax error()()", re.MULTILINE)
WIDTH = re.compile(r"Port \d+ \((.+?)\) of \S+ expects (\d+) bits, got (\d+)")
# as the tools put it, in words that no name of a design can be
OUT_OF_MEMORY = re.compile(r"\bstd::bad_alloc\b|\bout of memory\b|\bcannot allocate \w+", re.IGNORECASE)
CPU_EXCEEDED = re.compile(r"CPU time limit exceeded")
OUR_NAME = re.compile(r"\bt[0-9a-f]{16}\w*(?:\.t[0-9a-f]{16}\w*)*")  # of a module or instance in a simulation
MEMORY_BYTES = 1 << 30
OUT_OF_TIME = NoTrace(
    status=Status.TIMEOUT, detail="the deadline passed before a simulation", compiled=False, ports=False, certain=False
)


class Simulator:
    """Runs iverilog and vvp in the sandbox. Safe to share between threads."""

    def __init__(self, sandbox: Sandbox, config: VerilogConfig) -> None:
        self._sandbox = sandbox
        self._config = config

    def outcomes(
        self, designs: Sequence[Design], clocks: Sequence[Clock], interface: Interface, stimuli: Stimuli
    ) -> list[Outcome]:
        """The outcome of each design, in order: what it would be if the design were simulated alone.

        A clock per design; one that has no time left before its design has an outcome makes that a timeout.
        """
        found: dict[int, Outcome] = {}
        groups = deque(self._groups(designs, interface, stimuli))
        while groups:
            group = groups.popleft()
            found.update({index: OUT_OF_TIME for index in group if clocks[index].passed})
            group = [index for index in group if index not in found]
            if not group:
                continue
            started = time.monotonic()
            with running(clocks[index] for index in group) as deadline:
                outcome = self._group([designs[index] for index in group], interface, stimuli, deadline)
            if isinstance(outcome, NoTrace):
                if len(group) == 1:
                    found[group[0]] = outcome
                    continue
                groups.extend(split(group))
                for index in group:  # one of them spoilt it: it costs each a share only
                    clocks[index].refund((1 - 1 / len(group)) * (time.monotonic() - started))
                continue
            settled = {index: result for index, result in zip(group, outcome, strict=True) if result is not None}
            found.update(settled)
            rest = [index for index in group if index not in settled]
            if rest:
                groups.append(rest)
        return [found[index] for index in range(len(designs))]

    def _groups(self, designs: Sequence[Design], interface: Interface, stimuli: Stimuli) -> list[list[int]]:
        """Who runs with whom: gates with many others, the rest with few, what declares names of its own alone."""
        by_bits = MAX_ROW_BITS // interface.output_bits
        by_bytes = MAX_OUTPUT_BYTES // (2 * len(stimuli.vectors) * interface.output_bits)
        by_time = int(GROUP_S / stimuli.seconds) if stimuli.seconds else self._config.batch
        room = max(1, min(by_bits, by_bytes, by_time))
        lanes: dict[int, list[int]] = {min(room, self._config.batch): [], min(room, self._config.wild_batch): [], 1: []}
        for index, design in enumerate(designs):
            size = self._config.batch if design.calm else self._config.wild_batch if design.sociable else 1
            lanes[min(room, size)].append(index)
        return [lane[start : start + size] for size, lane in lanes.items() for start in range(0, len(lane), size)]

    def _cpu_s(self, count: int, stimuli: Stimuli) -> int:
        """CPU seconds of a simulation of so many designs."""
        return max(self._config.simulate_cpu_s, math.ceil((count + SLOWER) * stimuli.seconds))

    def _group(
        self, designs: Sequence[Design], interface: Interface, stimuli: Stimuli, deadline: Deadline
    ) -> NoTrace | list[Outcome | None]:
        """One simulation. NoTrace where it gave nothing; None for a design that must run again without those blamed."""
        nonce = "t" + secrets.token_hex(8)
        files = {
            "s.v": harness(designs, interface, stimuli, nonce).encode(),
            "s.txt": "\n".join(stimuli.vectors).encode(),
        }
        simulate_cpu_s = self._cpu_s(len(designs), stimuli)
        script = SCRIPT.format(
            compile_cpu_s=self._config.compile_cpu_s, simulate_cpu_s=simulate_cpu_s, failed=COMPILE_FAILED
        )
        cpu_s = max(self._config.compile_cpu_s, simulate_cpu_s)
        finished = run_tool(self._sandbox, script, files, cpu_s, deadline)
        said = finished.stderr.decode(errors="replace")
        blamed = self._blamed(said, designs)
        if finished.status == COMPILE_FAILED and blamed:
            return [blamed.get(index) for index in range(len(designs))]
        widths = wrong_widths(said, len(designs))
        if finished.status != 0 or finished.ending != Ending.EXITED:
            return widths[0] if widths and len(designs) == 1 else no_trace(finished, said)
        texts = read_samples(finished.stdout.decode(errors="replace"), nonce, interface.output_bits, len(designs))
        samples = len(texts[0]) // interface.output_bits
        if samples != len(stimuli.vectors):  # a good end and samples missing: only a design can have ended it
            return NoTrace(
                status=Status.MALFORMED,
                detail=f"the simulation was ended from inside after {samples} of {len(stimuli.vectors)} samples",
                compiled=True,
                ports=True,
            )
        return [widths.get(index) or Trace(text=text, width=interface.output_bits) for index, text in enumerate(texts)]

    def _blamed(self, said: str, designs: Sequence[Design]) -> dict[int, Outcome]:
        """Designs that the compiler's messages name by line. Each message starts a line, where no design can write."""
        blamed: dict[int, Outcome] = {}
        for pattern in (BLAME, SYNTAX):
            for line, kind, message in pattern.findall(said):
                if kind == "warning" or int(line) > LINES_EACH * len(designs):
                    continue
                index = (int(line) - 1) % len(designs)
                message = OUR_NAME.sub("the design", message.strip()) or "syntax error"
                # the line of an instance: the design compiles, and does not fit
                compiled = int(line) > len(designs)
                detail = f"{'does not fit' if compiled else 'does not compile'}: {message}"
                blamed.setdefault(
                    index, NoTrace(status=Status.MALFORMED, detail=detail, compiled=compiled, ports=False)
                )
        return blamed


def harness(designs: Sequence[Design], interface: Interface, stimuli: Stimuli, nonce: str) -> str:
    """The text of one simulation, LINES_EACH lines per design as drawn above, since the compiler names lines."""
    bits, samples = interface.input_bits, len(stimuli.vectors)
    lines = [design.render(f"{nonce}d{index}") for index, design in enumerate(designs)]
    heading = f"module {nonce}; "
    for index, design in enumerate(designs):
        drives, inputs, outputs = f"{nonce}i{index}", f"{nonce}s{index}", f"{nonce}y{index}"
        connections = connect(interface.inputs, inputs) + connect(interface.outputs, outputs)
        start = f" = {bits}'b{stimuli.vectors[0]}" if stimuli.from_start else ""
        registers = f"reg [{bits - 1}:0] {inputs}{start}; " if bits else ""
        lines.append(
            f"{heading}{registers}wire [{interface.output_bits - 1}:0] {outputs};"
            f" {design.top_name(f'{nonce}d{index}')} {drives}({', '.join(connections)});"
        )
        heading = ""
    count = range(len(designs))
    row = "{" + ", ".join(f"{nonce}y{index}" for index in count) + "}"
    width = interface.output_bits * len(designs)
    memory = f'reg [{bits - 1}:0] {nonce}v [0:{samples - 1}]; initial $readmemb("s.txt", {nonce}v);' if bits else ""
    lines[-1] += (
        f" reg [{width - 1}:0] {nonce}a, {nonce}b; integer {nonce}k; {memory}"
        f" initial begin #1; for ({nonce}k = 0; {nonce}k < {samples}; {nonce}k = {nonce}k + 1) begin"
    )
    lines += [f"{nonce}s{index} = {nonce}v[{nonce}k];" if bits else "" for index in count]
    lines += [
        f'#{SETTLE - 1} {nonce}a = {row}; $display("{nonce}:%b", {nonce}a);',
        f'#1 {nonce}b = {row}; if ({nonce}a !== {nonce}b) $display("{nonce}+%b", {nonce}b);',
        "end $finish(0); end endmodule\n",
    ]
    return "\n".join(lines)


def connect(ports: Sequence, vector: str) -> list[str]:
    """Named connections to slices of a vector whose most significant bits belong to the first port."""
    high = sum(port.width for port in ports) - 1
    connections = []
    for port in ports:
        low = high - port.width + 1
        connections.append(f".{port.name} ({vector}[{high}:{low}])")
        high = low - 1
    return connections


def read_samples(stdout: str, nonce: str, bits: int, count: int) -> list[str]:
    """The samples of each design, end to end. A second reading of one marks what has not settled, as unknown."""
    sample = f"([01xz]{{{bits * count}}})$"
    if f"{nonce}+" not in stdout:
        rows = re.findall(f"^{nonce}:{sample}", stdout, re.MULTILINE)
    else:
        rows = []
        for mark, text in re.findall(rf"^{nonce}([:+]){sample}", stdout, re.MULTILINE):
            if mark == ":":
                rows.append(text)
            elif rows:
                rows[-1] = "".join(map(unless_moved, rows[-1], text))
    if count == 1:
        return ["".join(rows)]
    return ["".join([row[low : low + bits] for row in rows]) for low in range(0, bits * count, bits)]


def unless_moved(before: str, after: str) -> str:
    return before if before == after else UNKNOWN


def wrong_widths(said: str, count: int) -> dict[int, NoTrace]:
    """Designs whose ports have other widths than the reference's, by the line of their instance."""
    wrong: dict[int, NoTrace] = {}
    for line, kind, message in BLAME.findall(said):
        width = WIDTH.search(message)
        index = int(line) - 1 - count
        if kind == "warning" and width and 0 <= index < count:
            name, has, wants = width.groups()
            detail = f"port {name} has {has} bits, expected {wants}"
            wrong[index] = NoTrace(status=Status.SCORED, detail=detail, compiled=True, ports=False)
    return wrong


def split(group: list[int]) -> list[list[int]]:
    size = -(-len(group) // PARTS)
    return [group[start : start + size] for start in range(0, len(group), size)]


def run_tool(sandbox: Sandbox, script: str, files: Mapping[str, bytes], cpu_s: int, deadline: Deadline) -> Finished:
    """Run a shell script in the sandbox, again where somebody else killed it."""
    for _ in range(ATTEMPTS):
        limits = Limits(
            wall_s=deadline.left_s(), cpu_s=cpu_s, memory_bytes=MEMORY_BYTES, output_bytes=2 * MAX_OUTPUT_BYTES
        )
        finished = sandbox.run(["sh", "-c", script], files, limits)
        if finished.ending != Ending.KILLED:
            break
    return finished


def no_trace(finished: Finished, said: str) -> NoTrace:
    """Why a simulation of one design gave nothing."""
    compiled = finished.status != COMPILE_FAILED
    who = "simulation" if compiled else "compilation"
    status, certain = Status.RESOURCE, True
    if finished.ending == Ending.KILLED:
        status, certain, detail = Status.ERROR, False, f"{who} was killed {ATTEMPTS} times"
    elif finished.ending == Ending.CPU or CPU_EXCEEDED.search(said):
        status, detail = Status.TIMEOUT, f"{who} did not end within its CPU time"
    elif finished.ending == Ending.WALL:
        compiled = False  # nobody knows
        status, certain, detail = Status.TIMEOUT, False, f"{who} did not end within {finished.seconds:.1f} s"
    elif finished.ending in (Ending.OUTPUT, Ending.FILE):
        detail = f"{who} wrote too much"
    elif OUT_OF_MEMORY.search(said):
        detail = f"{who} ran out of memory: {last_line(said)}"
    else:  # a design that makes a tool crash is no way out of being wrong
        said = last_line(said)
        status, detail = Status.MALFORMED, f"simulation broke off: {said}" if compiled else f"does not compile: {said}"
    return NoTrace(status=status, detail=detail, compiled=compiled, ports=compiled, certain=certain)


def last_line(said: str) -> str:
    lines = [line for line in said.strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no message"
