"""Many designs, one simulation: designs and stimuli in, a trace of sampled outputs per design out.

    line 1 .. n       one design each, modules under names nobody can guess
    line n+1 .. 2n    one instance each, with inputs and outputs of its own
    line 2n+1 .. 3n   apply a vector to one instance each
    then              wait, write all outputs as one row of bits

Designs that share a simulation cannot see each other. What one can do to the others is end the whole: not compile,
never settle, use up memory. Then the guilty are named by the compiler's line numbers, or found by splitting, so that
each design gets the outcome it would have had alone.
"""

import re
import secrets
from collections import deque
from collections.abc import Sequence

from reward.config import VerilogConfig
from reward.messages import Status
from reward.sandbox import Ending, Finished, Limits, Sandbox
from reward.verilog.design import Design
from reward.verilog.interface import Interface
from reward.verilog.stimuli import Stimuli
from reward.verilog.traces import NoTrace, Trace

Outcome = Trace | NoTrace

SETTLE = 1000  # time units between a vector and its sample; a looped design has one unit per assignment
MAX_OUTPUT_BYTES = 8 << 20
MAX_ROW_BITS = 8192
LINES_EACH = 3
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
OUT_OF_MEMORY = re.compile(r"bad_alloc|out of memory|cannot allocate|Killed|Aborted|Segmentation", re.IGNORECASE)
CPU_EXCEEDED = re.compile(r"CPU time limit exceeded")
MEMORY_BYTES = 1 << 30


class Simulator:
    """Runs iverilog and vvp in the sandbox. Safe to share between threads."""

    def __init__(self, sandbox: Sandbox, config: VerilogConfig, deadline_s: float) -> None:
        self._sandbox = sandbox
        self._config = config
        self._limits = Limits(
            wall_s=deadline_s,
            cpu_s=max(config.compile_cpu_s, config.simulate_cpu_s),
            memory_bytes=MEMORY_BYTES,
            output_bytes=2 * MAX_OUTPUT_BYTES,
        )
        self._script = SCRIPT.format(
            compile_cpu_s=config.compile_cpu_s, simulate_cpu_s=config.simulate_cpu_s, failed=COMPILE_FAILED
        )

    def outcomes(self, designs: Sequence[Design], interface: Interface, stimuli: Stimuli) -> list[Outcome]:
        """The outcome of each design, in order: what it would be if the design were simulated alone."""
        found: dict[int, Outcome] = {}
        groups = deque(self._groups(designs, interface, stimuli))
        while groups:
            group = groups.popleft()
            outcome = self._group([designs[index] for index in group], interface, stimuli)
            if isinstance(outcome, NoTrace):
                if len(group) == 1:
                    found[group[0]] = outcome
                else:
                    groups.extend(split(group))
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
        room = max(1, min(by_bits, by_bytes))
        lanes: dict[int, list[int]] = {min(room, self._config.batch): [], min(room, self._config.wild_batch): [], 1: []}
        for index, design in enumerate(designs):
            size = self._config.batch if design.calm else self._config.wild_batch if design.sociable else 1
            lanes[min(room, size)].append(index)
        return [lane[start : start + size] for size, lane in lanes.items() for start in range(0, len(lane), size)]

    def _group(
        self, designs: Sequence[Design], interface: Interface, stimuli: Stimuli
    ) -> NoTrace | list[Outcome | None]:
        """One simulation. NoTrace where it gave nothing; None for a design that must run again without those blamed."""
        nonce = "t" + secrets.token_hex(8)
        files = {
            "s.v": harness(designs, interface, stimuli, nonce).encode(),
            "s.txt": "\n".join(stimuli.vectors).encode(),
        }
        for _ in range(ATTEMPTS):
            finished = self._sandbox.run(["sh", "-c", self._script], files, self._limits)
            if finished.ending != Ending.KILLED:
                break
        said = finished.stderr.decode(errors="replace")
        blamed = self._blamed(said, designs)
        if finished.status == COMPILE_FAILED and blamed:
            return [blamed.get(index) for index in range(len(designs))]
        if finished.status != 0 or finished.ending != Ending.EXITED:
            return no_trace(finished, said)
        widths = wrong_widths(said, len(designs))
        rows = read_rows(finished.stdout.decode(errors="replace"), nonce, interface.output_bits, len(designs))
        if len(rows[0]) != len(stimuli.vectors):
            return NoTrace(
                status=Status.ERROR,
                detail=f"the simulator stopped after {len(rows[0])} of {len(stimuli.vectors)} samples",
                compiled=True,
            )
        return [widths.get(index) or Trace(rows=tuple(rows[index])) for index in range(len(designs))]

    def _blamed(self, said: str, designs: Sequence[Design]) -> dict[int, Outcome]:
        """Designs that the compiler's messages name by line. Each message starts a line, where no design can write."""
        blamed: dict[int, Outcome] = {}
        for pattern in (BLAME, SYNTAX):
            for line, kind, message in pattern.findall(said):
                if kind == "warning" or int(line) > LINES_EACH * len(designs):
                    continue
                index = (int(line) - 1) % len(designs)
                detail = f"does not compile: {message.strip() or 'syntax error'}"
                blamed.setdefault(index, NoTrace(status=Status.MALFORMED, detail=detail, compiled=False))
        return blamed


def harness(designs: Sequence[Design], interface: Interface, stimuli: Stimuli, nonce: str) -> str:
    """The text of one simulation, LINES_EACH lines per design as drawn above, since the compiler names lines."""
    bits, samples = interface.input_bits, len(stimuli.vectors)
    lines = [design.render(f"{nonce}d{index}") for index, design in enumerate(designs)]
    heading = f"module {nonce}; "
    for index, design in enumerate(designs):
        drives, inputs, outputs = f"{nonce}i{index}", f"{nonce}s{index}", f"{nonce}y{index}"
        connections = connect(interface.inputs, inputs) + connect(interface.outputs, outputs)
        registers = f"reg [{bits - 1}:0] {inputs}; " if bits else ""
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


def read_rows(stdout: str, nonce: str, bits: int, count: int) -> list[list[str]]:
    """Rows per design. A second reading of the same sample marks what has not settled, as unknown."""
    rows: list[list[str]] = [[] for _ in range(count)]
    for line in stdout.split("\n"):
        mark, text = line[: len(nonce) + 1], line[len(nonce) + 1 :]
        if len(text) != bits * count:
            continue
        if mark == f"{nonce}:":
            for index in range(count):
                rows[index].append(text[index * bits : (index + 1) * bits])
        elif mark == f"{nonce}+" and rows[0]:
            for index in range(count):
                later = text[index * bits : (index + 1) * bits]
                if later != rows[index][-1]:
                    rows[index][-1] = "".join(a if a == b else "x" for a, b in zip(rows[index][-1], later, strict=True))
    return rows


def wrong_widths(said: str, count: int) -> dict[int, NoTrace]:
    """Designs whose ports have other widths than the reference's, by the line of their instance."""
    wrong: dict[int, NoTrace] = {}
    for line, kind, message in BLAME.findall(said):
        width = WIDTH.search(message)
        index = int(line) - 1 - count
        if kind == "warning" and width and 0 <= index < count:
            name, has, wants = width.groups()
            detail = f"port {name} has {has} bits, expected {wants}"
            wrong[index] = NoTrace(status=Status.SCORED, detail=detail, compiled=True)
    return wrong


def split(group: list[int]) -> list[list[int]]:
    size = -(-len(group) // PARTS)
    return [group[start : start + size] for start in range(0, len(group), size)]


def no_trace(finished: Finished, said: str) -> NoTrace:
    """Why a simulation of one design gave nothing."""
    compiled = finished.status != COMPILE_FAILED
    who = "simulation" if compiled else "compilation"
    if finished.ending == Ending.KILLED:
        return NoTrace(
            status=Status.ERROR, detail=f"{who} was killed {ATTEMPTS} times", compiled=compiled, certain=False
        )
    if finished.ending == Ending.CPU or CPU_EXCEEDED.search(said):
        return NoTrace(status=Status.TIMEOUT, detail=f"{who} did not end within its CPU time", compiled=compiled)
    if finished.ending == Ending.WALL:
        return NoTrace(
            status=Status.TIMEOUT,
            detail=f"{who} did not end within {finished.seconds:.1f} s",
            compiled=compiled,
            certain=False,
        )
    if finished.ending in (Ending.OUTPUT, Ending.FILE):
        return NoTrace(status=Status.RESOURCE, detail=f"{who} wrote too much", compiled=compiled)
    if compiled or OUT_OF_MEMORY.search(said):
        return NoTrace(status=Status.RESOURCE, detail=f"{who} broke off: {last_line(said)}", compiled=compiled)
    return NoTrace(status=Status.MALFORMED, detail=f"does not compile: {last_line(said)}", compiled=False)


def last_line(said: str) -> str:
    lines = [line for line in said.strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no message"
