"""Keeps a run going: the driver is a child process, and is started again from the newest checkpoint when it is lost.

    temper train ... run.restarts=5
      supervisor --temper train--> driver   ends with 0, 1 or 2: so does the supervisor
                 --temper resume-> driver   killed, or ended with LOST because a learner died or the run was stuck

That is the whole restart of the learner, too: a lost rank leaves the others in the middle of a collective, so all of it
is started again from the checkpoint, which the journal then continues exactly once. `run.restarts` bounds restarts
within an hour; pauses before them grow (restarts.py).
"""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from orchestration.restarts import Restarts

LOST = 3  # exit code of a driver that lost somebody and may succeed when it is resumed

Start = Callable[[Sequence[str]], int]  # arguments of `temper` -> its exit code, or minus the signal that killed it


def supervise(first: Sequence[str], folder: Path, resume: Sequence[str], restarts: int, start: Start) -> int:
    """Run `temper *first`, and `temper *resume` for as long as a driver is lost; returns its exit code.

    A driver that was lost before its run folder had a configuration is started as the first time.
    """
    budget = Restarts(restarts)
    arguments = list(first)
    while (code := start(arguments)) == LOST or code < 0:
        pause = budget.pause(time.monotonic())
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else "lost a part of the run"
        if pause is None:
            sys.stderr.write(
                f"temper: the driver {how}, and run.restarts={restarts} within an hour are used up: look at"
                f" {folder / 'logs'}, then continue with: temper resume {folder}\n"
            )
            return code if code > 0 else LOST
        if (folder / "config.yaml").is_file():
            arguments = list(resume)
        sys.stderr.write(f"temper: the driver {how}; in {pause:.0f} s: temper {' '.join(arguments)}\n")
        time.sleep(pause)
    return code


def start_driver(arguments: Sequence[str]) -> int:
    """One driver, on this console. Ctrl-C reaches it by itself; a SIGTERM sent to the supervisor is passed on."""
    driver = subprocess.Popen([sys.executable, "-m", "orchestration.cli", *arguments])
    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda number, _: driver.send_signal(number)),
    }
    try:
        return driver.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
