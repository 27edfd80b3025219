"""How often what died may be started again, and how soon: a budget within an hour, and pauses that grow.

A death after a while of work is answered at once. A fault that kills every worker as soon as it is up must neither spin
nor be hidden: each death soon after the last restart waits twice as long, and beyond the budget the run stops.
"""

from collections import deque

WINDOW_S = 3600.0
SOON_S = 30.0  # after the last restart
FIRST_PAUSE_S = 0.5  # before the restart after a death that came soon
LONGEST_PAUSE_S = 60.0


class Restarts:
    """At most `budget` restarts within any hour. Pure: the caller says what time it is, in seconds.

    Deaths within `together_s` of the first of them count as one: a node that is lost takes all its workers with it.
    """

    def __init__(self, budget: int, together_s: float = 0.0) -> None:
        self.budget = budget
        self.together_s = together_s
        self._times: deque[float] = deque()  # of the first death of each that counts
        self._soon = 0  # deaths in a row, each soon after the restart before it
        self._pause = 0.0  # before the last restart

    def pause(self, now: float) -> float | None:
        """Seconds to wait before the restart that a death at `now` asks for, or None where the budget is spent."""
        while self._times and now - self._times[0] >= WINDOW_S:
            self._times.popleft()
        if self._times and now - self._times[-1] < self.together_s:
            return self._pause
        if len(self._times) >= self.budget:
            return None
        restarted = self._times[-1] + self._pause if self._times else -WINDOW_S
        self._soon = self._soon + 1 if now - restarted < SOON_S else 0
        self._pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** (self._soon - 1)) if self._soon else 0.0
        self._times.append(now)
        return self._pause
