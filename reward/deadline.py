"""How long judging one response may still take, across every tool call and process that takes part in it."""

import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point in time. `at_s` is on the monotonic clock."""

    at_s: float

    @staticmethod
    def after(seconds: float) -> "Deadline":
        return Deadline(time.monotonic() + seconds)

    def left_s(self) -> float:
        """Seconds left, 0 where it has passed."""
        return max(0.0, self.at_s - time.monotonic())

    @property
    def passed(self) -> bool:
        return time.monotonic() >= self.at_s
