"""A driver whose loop stands still ends with its stacks; one that only waits for others does not."""

import asyncio
import subprocess
import sys
import threading

from orchestration import watchdog as module
from orchestration.supervisor import LOST
from orchestration.watchdog import watchdog

STUCK = """
import asyncio, time
from orchestration.watchdog import watchdog

def hangs_here():
    time.sleep(60)

async def main():
    with watchdog(0.5):
        await asyncio.sleep(0.1)
        hangs_here()

asyncio.run(main())
"""


def test_a_loop_that_stands_still_ends_the_process_with_its_stacks():
    """A real process: exit code LOST, the function that blocks is named."""
    ended = subprocess.run([sys.executable, "-c", STUCK], capture_output=True, text=True, timeout=30)
    assert ended.returncode == LOST
    assert "the driver's event loop stood still for" in ended.stderr
    assert "hangs_here" in ended.stderr


def test_a_loop_that_waits_is_left_alone(monkeypatch):
    """Longer than the deadline, but turning; and nothing is left behind."""
    monkeypatch.setattr(module, "TICK_S", 0.05)
    ends = []

    async def main():
        with watchdog(0.3, lambda: ends.append(1)):
            await asyncio.sleep(1.0)

    asyncio.run(main())
    assert ends == []
    assert "watchdog" not in [thread.name for thread in threading.enumerate()]
