"""A testbench judges recorded outputs: the design is not there, a player of its trace stands in its place.

    testbench + player --compile once--> vvp text
    vvp text + stimuli + trace --simulate--> what the testbench says; or new stimuli, where it reacts to the outputs

The player checks that its inputs change as recorded, and gives row k of the trace when they have changed k times. Rows
are data in a file: no line of a design is compiled or run here, so what the testbench prints can be believed.
"""

import math
import re
import secrets
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from reward.deadline import Deadline
from reward.messages import Status
from reward.sandbox import SHELL_SIGNAL_BASE, Ending, Finished, Sandbox
from reward.verilog.clock import Clock, running
from reward.verilog.interface import Interface
from reward.verilog.recording import BENCH_CPU_S
from reward.verilog.simulate import COMPILE_FAILED, OUT_OF_TIME, no_trace, run_tool
from reward.verilog.stimuli import Stimuli
from reward.verilog.testbench import Bench, Said, read_verdict
from reward.verilog.traces import NoTrace, Trace

ROOM = 4  # times the recorded vectors that a testbench may feed a design before it counts as never ending
LEAST_ROOM = 1024
NEWS = 256  # least new vectors taken down once a playback leaves what was recorded
NEWS_SHARE = 8  # part of the room that they may be
CHUNK_S = 1.0  # playbacks share a call as far as they fit into so much simulation
MAX_CHUNK = 64
SLOWER = 4  # times the reference's time that a playback may take
MIN_CPU_S = 1
EXITED_WELL = 0
OUT_OF_CPU = SHELL_SIGNAL_BASE + signal.SIGXCPU
BUILD = """
ulimit -S -t {compile_cpu_s}
iverilog -g2012 -s {top} -o p.vvp bench.sv >&2 || {{ echo "compiler exit status $?" >&2; exit {failed}; }}
echo "{nonce}<"; cat p.vvp; echo "{nonce}>"
"""
PLAY = """
play() {{ (ulimit -S -t {cpu_s}; exec vvp -n p.vvp -none +{nonce}n=$2 +{nonce}v=v$3 +{nonce}r=r$1) 2>&1
status=$?; echo; echo "{nonce}=$1 $status"; }}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Player:
    """A testbench compiled around a player; `seconds`: what the reference's playback took."""

    vvp: bytes
    nonce: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Diverged:
    """The testbench fed something else than recorded, up to which the outputs were the design's: it reacts to them."""

    stimuli: Stimuli


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One trace to play, with the stimuli it belongs to."""

    stimuli: Stimuli
    trace: Trace


Played = Said | Diverged | NoTrace
ENDLESS = NoTrace(
    status=Status.SCORED,
    detail=f"the testbench does not end within {ROOM} times the input changes it takes with the reference",
    compiled=True,
    ports=True,
)


class Playback:
    """Builds players and runs them in the sandbox. Safe to share between threads."""

    def __init__(self, sandbox: Sandbox, compile_cpu_s: int) -> None:
        self._sandbox = sandbox
        self._compile_cpu_s = compile_cpu_s

    def build(
        self, bench: Bench, interface: Interface, reference: Part, deadline: Deadline
    ) -> tuple[Player, Played] | NoTrace:
        """A player for the testbench, and what the testbench says of the reference's own trace."""
        nonce = "t" + secrets.token_hex(8)
        room = max(LEAST_ROOM, ROOM * len(reference.stimuli.vectors))
        text = bench.text + player(bench.top_module, interface, room, nonce)
        build = BUILD.format(compile_cpu_s=self._compile_cpu_s, top=bench.top, failed=COMPILE_FAILED, nonce=nonce)
        script, files = playing([reference], nonce, BENCH_CPU_S)
        finished = run_tool(
            self._sandbox,
            build + script,
            {"bench.sv": text.encode(), **files},
            max(self._compile_cpu_s, BENCH_CPU_S),
            deadline,
        )
        _, _, rest = finished.stdout.partition(f"{nonce}<\n".encode())
        vvp, found, printed = rest.partition(f"{nonce}>\n".encode())  # the compiled text holds words of success too
        played = read_playbacks(printed, [reference], nonce).get(0)
        if not found or played is None:
            return no_trace(finished, finished.stderr.decode(errors="replace"))
        return Player(vvp=vvp, nonce=nonce, seconds=finished.seconds), played

    def play(self, player: Player, parts: Sequence[Part], clocks: Sequence[Clock]) -> list[Played]:
        """What the testbench says of each trace, in order; a clock per trace."""
        found: dict[int, Played] = {}
        size = max(1, min(MAX_CHUNK, int(CHUNK_S / player.seconds)))
        groups = [list(range(start, min(start + size, len(parts)))) for start in range(0, len(parts), size)]
        while groups:
            group = groups.pop()
            found.update({index: OUT_OF_TIME for index in group if clocks[index].passed})
            group = [index for index in group if index not in found]
            if not group:
                continue
            with running(clocks[index] for index in group) as deadline:
                said, finished = self._play(player, [parts[index] for index in group], deadline)
            found.update({group[position]: played for position, played in said.items()})
            rest = [index for index in group if index not in found]
            if len(group) == 1 and rest:
                found[rest[0]] = no_trace(finished, "")
            else:
                groups += [[index] for index in rest]
        return [found[index] for index in range(len(parts))]

    def _play(self, player: Player, parts: Sequence[Part], deadline: Deadline) -> tuple[dict[int, Played], Finished]:
        script, files = playing(parts, player.nonce, bench_cpu_s(player.seconds))
        finished = run_tool(self._sandbox, script, {"p.vvp": player.vvp, **files}, BENCH_CPU_S, deadline)
        return read_playbacks(finished.stdout, parts, player.nonce), finished


def bench_cpu_s(reference_s: float) -> int:
    """CPU seconds that a testbench may take with a design, from those it takes with the reference."""
    return min(BENCH_CPU_S, math.ceil(MIN_CPU_S + SLOWER * reference_s))


def playing(parts: Sequence[Part], nonce: str, cpu_s: int) -> tuple[str, dict[str, bytes]]:
    """The script that plays each part, and its files: traces r0, r1 ..., and each list of stimuli once."""
    lists: dict[tuple[str, ...], int] = {}
    files: dict[str, bytes] = {}
    script = PLAY.format(cpu_s=cpu_s, nonce=nonce)
    for index, part in enumerate(parts):
        vectors = part.stimuli.vectors
        which = lists.setdefault(vectors, len(lists))
        files[f"v{which}"] = "\n".join(vectors).encode()
        files[f"r{index}"] = part.trace.lines
        script += f"play {index} {len(vectors)} {which}\n"
    return script, files


def read_playbacks(stdout: bytes, parts: Sequence[Part], nonce: str) -> dict[int, Played]:
    """What was said of each part that was played to its end."""
    played: dict[int, Played] = {}
    pieces = re.split(rf"^{nonce}=(\d+) (\d+)\n", stdout.decode(errors="replace"), flags=re.MULTILINE)
    for printed, index, status in zip(pieces[0::3], pieces[1::3], pieces[2::3], strict=False):
        played[int(index)] = read_playback(printed, int(status), parts[int(index)].stimuli, nonce)
    return played


def read_playback(printed: str, status: int, stimuli: Stimuli, nonce: str) -> Played:
    left = re.search(rf"{nonce}!(\d+)", printed)
    if left:
        if f"{nonce}#" in printed:
            return ENDLESS
        news = re.findall(rf"{nonce}\*([01xz]+)", printed)
        vectors = stimuli.vectors[: int(left.group(1))] + tuple(news)
        return Diverged(stimuli=Stimuli(vectors=vectors, from_start=stimuli.from_start, seconds=stimuli.seconds))
    if status != EXITED_WELL:
        ending = Ending.CPU if status == OUT_OF_CPU else Ending.EXITED
        return no_trace(Finished(ending=ending, status=status, stdout=b"", stderr=b"", seconds=0.0), printed)
    return read_verdict(printed)


def player(name: str, interface: Interface, room: int, nonce: str) -> str:
    """A module called `name` that plays a trace of at most `room` rows.

    The names of its files and their length are arguments of the simulation. Marks: `!k` the k-th input is not as
    recorded, `*bits` each input from there on, `#` there is no room for more.
    """
    n, k, v, r, vf, rf, away, news, last, step = (nonce + end for end in ("n", "k", "v", "r", *"abcdel"))
    start = f"""{interface.header(name, "reg")}
reg [{interface.output_bits - 1}:0] {r} [0:{room - 1}];
reg [127:0] {vf}, {rf};
integer {n}, {k}, {news};
reg {away};
initial begin
  if (!$value$plusargs("{n}=%d", {n}) || !$value$plusargs("{v}=%s", {vf}) || !$value$plusargs("{r}=%s", {rf}))
    $finish(0);
  $readmemb({rf}, {r}, 0, {n} - 1);
"""
    if not interface.inputs:
        return f"{start}  {{{interface.output_names}}} <= {r}[0];\nend\nendmodule\n"
    inputs = f"{{{interface.input_names}}}"
    return f"""{start}  $readmemb({vf}, {v}, 0, {n} - 1);
  {away} = 0; {news} = 0; {k} = 0; {step};
end
reg [{interface.input_bits - 1}:0] {v} [0:{room - 1}], {last};
task {step};
  if ({k} == 0 || {inputs} !== {last}) begin
    {last} = {inputs};
    if (!{away} && ({k} >= {n} || {last} !== {v}[{k}])) begin {away} = 1; $display("\\n{nonce}!%0d", {k}); end
    if (!{away}) {{{interface.output_names}}} <= {r}[{k}];
    else begin
      $display("\\n{nonce}*%b", {last}); {news} = {news} + 1;
      if ({k} >= {room - 1}) $display("\\n{nonce}#");
      if ({news} >= {max(NEWS, room // NEWS_SHARE)} || {k} >= {room - 1}) $finish(0);
    end
    {k} = {k} + 1;
  end
endtask
always @({interface.input_names}) {step};
endmodule
"""
