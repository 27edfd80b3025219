"""How often what died may be started again, and how soon: a budget within an hour, and pauses that grow.

One dead worker comes back at once. A fault that kills every worker as soon as it is up must neither spin nor be hidden:
each further death within the hour waits twice as long as the last, and beyond the budget the run stops.
"""

from collections import deque

WINDOW_S = 3600.0
FIRST_PAUSE_S = 0.5  # before the second restart within the window; there is none before the first
LONGEST_PAUSE_S = 60.0


class Restarts:
    """At most `budget` restarts within any hour. Pure: the caller says what time it is, in seconds."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._times: deque[float] = deque()

    def pause(self, now: float) -> float | None:
        """Count one restart at `now`; seconds to wait before it, or None where the budget is spent."""
        while self._times and now - self._times[0] >= WINDOW_S:
            self._times.popleft()
        if len(self._times) >= self.budget:
            return None
        earlier = len(self._times)
        self._times.append(now)
        return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** (earlier - 1)) if earlier else 0.0
