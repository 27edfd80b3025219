"""The last deadline: a driver whose event loop stands still writes its stacks and ends, instead of idling for days.

The loop's own deadline (`run.stall_deadline_s`) notices that nobody answers; it needs a loop that runs. This one is a
thread, which notices that the loop itself does not: a call that blocks, a deadlock with a library, a disk that hangs.
"""

import asyncio
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from orchestration.supervisor import LOST

TICK_S = 1.0


def _end() -> None:
    os._exit(LOST)  # the interpreter's own exit would wait for the thread that hangs


@contextmanager
def watchdog(deadline_s: float, end: Callable[[], None] = _end) -> Iterator[None]:
    """Inside, `end` is called when the running event loop has not turned for `deadline_s` seconds.

    By default that is the end of the process with exit code LOST, which a supervisor answers with a resume.
    """
    last_turn = time.monotonic()
    stopped = threading.Event()

    async def turn() -> None:
        nonlocal last_turn
        while True:
            last_turn = time.monotonic()
            await asyncio.sleep(TICK_S)

    def watch() -> None:
        while not stopped.wait(min(TICK_S, deadline_s / 4)):
            still_s = time.monotonic() - last_turn
            if still_s > deadline_s:
                sys.stderr.write(
                    f"temper: the driver's event loop stood still for {still_s:.0f} s, longer than"
                    " run.stall_deadline_s; its stacks follow, and the run can be resumed\n"
                )
                faulthandler.dump_traceback(all_threads=True)
                end()
                return

    turning = asyncio.get_running_loop().create_task(turn())
    watching = threading.Thread(target=watch, name="watchdog", daemon=True)
    watching.start()
    try:
        yield
    finally:
        stopped.set()
        turning.cancel()
        watching.join()
