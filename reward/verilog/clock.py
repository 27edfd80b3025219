"""How much of its deadline one response has used.

A response is judged in a batch with others, and its clock runs only while work goes on that it takes part in: the
preparation of its problem, a simulation it shares, a playback of its outputs. So a batch may be as long as it likes,
and no response uses up the time of another for longer than one shared simulation. One that ends early because of a
single response in it costs the others a share only.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from reward.deadline import Deadline


class Clock:
    """A budget of seconds that is spent piece by piece."""

    def __init__(self, budget_s: float) -> None:
        self._budget_s = budget_s
        self.spent_s = 0.0

    @property
    def left_s(self) -> float:
        return max(0.0, self._budget_s - self.spent_s)

    def refund(self, seconds: float) -> None:
        """Take back time that another response used up."""
        self.spent_s = max(0.0, self.spent_s - seconds)

    @property
    def passed(self) -> bool:
        return self.spent_s >= self._budget_s


@contextmanager
def running(clocks: Iterable[Clock]) -> Iterator[Deadline]:
    """Let the clocks run during the block; the deadline is that of the one with the least left."""
    distinct = {id(clock): clock for clock in clocks}.values()
    started = time.monotonic()
    try:
        yield Deadline(started + min(clock.left_s for clock in distinct))
    finally:
        seconds = time.monotonic() - started
        for clock in distinct:
            clock.spent_s += seconds
