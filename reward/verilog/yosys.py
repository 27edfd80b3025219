"""What the two users of yosys share: the text it gets, the limits it runs under, and why it gave nothing.

    Design --for_yosys--> text --Sandbox--> yosys --> Finished --why_nothing--> one clause for a detail

yosys reads less of the language than the simulator; a few rewritings that do not change a design's meaning for
synthesis make most designs readable.
"""

import re

from reward.deadline import Deadline
from reward.sandbox import Ending, Finished, Limits, Sandbox, check_program
from reward.verilog.design import Design

MEMORY_BYTES = 1 << 30
FILE_BYTES = 64 << 20
MAX_DETAIL_CHARS = 200
# a string and an escaped name stand for themselves; of the rest, what yosys reads in another form
WORDS = re.compile(r'"(?:\\.|[^"\\])*"|\\\S+|\b(always_comb|always_latch|always_ff|unique0|unique|priority)\b')
# the checks that yosys makes of an always_comb refuse designs that simulate well
REWRITTEN = {"always_comb": "always @*", "always_latch": "always @*", "always_ff": "always"}
ERROR = re.compile(r"^(?:\S+: )?ERROR: (.*)", re.MULTILINE)


def check_yosys() -> None:
    """Raises ToolError, one sentence, where yosys is not installed."""
    check_program("yosys", package="yosys")


def for_yosys(design: Design, name: str) -> str:
    """The design with its top called `name` and its other modules `<name>_<i>`, in words that yosys reads."""
    return WORDS.sub(rewritten, design.render(name, top_name=name)) + "\n"


def rewritten(match: re.Match[str]) -> str:
    word = match.group(1)
    return match.group() if word is None else REWRITTEN.get(word, "")


def run_yosys(sandbox: Sandbox, script: str, files: dict[str, str], *, cpu_s: int, deadline: Deadline) -> Finished:
    """Run a shell script around yosys with `files` beside it, within CPU seconds and what the deadline leaves."""
    limits = Limits(wall_s=deadline.left_s(), cpu_s=cpu_s, memory_bytes=MEMORY_BYTES, file_bytes=FILE_BYTES)
    return sandbox.run(["sh", "-c", script], {name: text.encode() for name, text in files.items()}, limits)


def why_nothing(finished: Finished) -> str:
    """Why a run that ended early has no result."""
    said = finished.stderr.decode(errors="replace")
    errors = ERROR.findall(said)
    if errors:
        return f"yosys cannot read or handle it: {errors[-1].strip()[:MAX_DETAIL_CHARS]}"
    if finished.ending == Ending.CPU or "CPU time limit exceeded" in said:
        return "yosys did not end within its CPU time"
    if finished.ending == Ending.WALL:
        return f"yosys did not end within {finished.seconds:.1f} s"
    return f"yosys broke off with exit status {finished.status}"
