"""One simulated rollout engine: many responses share it, and each of them advances by one token per decode step.

    add(group, lengths) --> line (oldest group first) --room for it?--> running --length reached--> gone
                                                                       all of a group gone --> `finish` is its time

Every running response draws its tokens at the same pace, so one number serves them all: `drawn`, the tokens that a
response would have that runs since the beginning. A response of length L that starts at `drawn` = d ends when `drawn`
reaches d + L, however often the batch grows and shrinks meanwhile (processor sharing in virtual time). A heap of these
ends gives the next one in O(log n), and nothing is touched between two ends. While a response is taken in, its prompt
read, and when it has ended, its record made, all others stand still, and an update waits for it. What its end leaves to
do beside the drawing is done before the next response is taken in, and costs nothing where none is for that long.

The engine looks ahead to the end of its next group on copies, so that a group costs one event of the simulation and not
one per response; whatever happens before that (new groups, an update) makes it look again.
"""

import heapq
import math
from collections.abc import Iterable, Sequence

NEVER = math.inf


class Engine:
    """Times are seconds since the start of the simulation and never go back. Lengths are tokens, at least 1.

    pace       seconds per decode step by responses running; its last index is how many run at once
    turnover_s of each response: half of it spent when it starts, half after its end
    aside_s    of each response, after its end
    """

    def __init__(
        self, name: str, pace: Sequence[float], version: int, now: float, turnover_s: float = 0.0, aside_s: float = 0.0
    ) -> None:
        self.name = name
        self.version = version
        self.busy_s = 0.0  # with something running, pauses left out; prompts count when they begin to be read
        self.tokens = 0.0  # drawn so far, of all responses
        self.finish = NEVER  # when the next group ends, if nothing happens before
        self.finished = -1  # that group
        self.epoch = 0  # of `finish`: it grows when the engine looks again
        self._pace = pace
        self._turn_s = turnover_s / 2
        self._aside_s = aside_s
        self._aside_until = 0.0  # what has ended is dealt with
        self._room = len(pace) - 1
        self._now = now
        self._drawn = 0.0
        self._running: list[tuple[float, int]] = []  # heap of (end in `drawn`, group)
        self._line: list[tuple[int, int, int]] = []  # heap of (group, index, length)
        self._left: dict[int, int] = {}  # responses of a group that have not ended
        self._oldest: dict[int, int] = {}  # the version that drew a group's first token
        self._ahead: tuple = ()

    @property
    def groups(self) -> Iterable[int]:
        """All that are here, running or in line."""
        return self._left.keys()

    def add(self, group: int, lengths: Sequence[int], now: float) -> None:
        """A group arrives; lower numbers go first."""
        self.advance(now)
        self._left[group] = len(lengths)
        for index, length in enumerate(lengths):
            heapq.heappush(self._line, (group, index, length))
        while self._line and len(self._running) < self._room:
            first, _, length = heapq.heappop(self._line)
            self._oldest.setdefault(first, self.version)
            heapq.heappush(self._running, (self._drawn + length, first))
            began, self._now = self._now, self._taken_in(self._now)
            self.busy_s += self._now - began

    def update(self, version: int, now: float, pause_s: float) -> float:
        """New weights: generation stands still for `pause_s`, and goes on with them; returns when."""
        self.advance(now)
        self.version = version
        self._now = max(self._now, now) + pause_s
        return self._now

    def advance(self, until: float) -> None:
        """Bring everything up to `until`, before which no group ends."""
        if until <= self._now:
            return  # paused beyond it
        self._walk(until, self._running, self._line, self._left, self._oldest)

    def look_ahead(self) -> float:
        """Find the end of the next group; NEVER while there is none. To be called after `add` and `update`."""
        self.epoch += 1
        self.finish, self.finished = NEVER, -1
        if self._left:
            before = self._clock
            copies = self._running.copy(), self._line.copy(), self._left.copy(), self._oldest.copy()
            self.finished, self.finish = self._walk(NEVER, *copies)
            self._ahead, self._clock = (self._clock, copies), before
        return self.finish

    def take_finished(self) -> tuple[int, int]:
        """At the time `finish`: the group that ends, and the oldest version that drew one of its tokens."""
        self._clock, copies = self._ahead
        self._running, self._line, self._left, self._oldest = copies
        return self.finished, self._oldest.pop(self.finished)

    @property
    def _clock(self) -> tuple[float, ...]:
        """All that goes forward with time, but for the responses."""
        return self._now, self._aside_until, self._drawn, self.busy_s, self.tokens

    @_clock.setter
    def _clock(self, values: tuple[float, ...]) -> None:
        self._now, self._aside_until, self._drawn, self.busy_s, self.tokens = values

    def _taken_in(self, now: float) -> float:
        """When a response begins to draw whose turn it is `now`: what has ended is dealt with before."""
        return max(now, self._aside_until) + self._turn_s

    def _walk(
        self,
        until: float,
        running: list[tuple[float, int]],
        line: list[tuple[int, int, int]],
        left: dict[int, int],
        oldest: dict[int, int],
    ) -> tuple[int, float]:
        """End responses in order up to `until`, or up to and with the last one of a group; returns it and its end."""
        pace, now, drawn, begin = self._pace, self._now, self._drawn, self._now
        group, at, tokens = -1, NEVER, 0.0
        while running:
            count = len(running)
            end, first = running[0]
            step_s = pace[count]
            then = now + (end - drawn) * step_s
            if then >= until:
                steps = max(until - now, 0.0) / step_s
                tokens += steps * count
                drawn += steps
                now = max(now, until)
                break
            tokens += (end - drawn) * count
            now, drawn = then, end
            now += self._turn_s
            self._aside_until = max(self._aside_until, now) + self._aside_s
            if line:
                later, _, length = heapq.heappop(line)
                if later not in oldest:
                    oldest[later] = self.version
                heapq.heapreplace(running, (drawn + length, later))
                now = self._taken_in(now)
            else:
                heapq.heappop(running)
            left[first] -= 1
            if not left[first]:
                del left[first]
                group, at = first, then
                break
        self.busy_s += now - begin
        self.tokens += tokens
        self._now = now if at < NEVER or until == NEVER else max(now, until)
        self._drawn = drawn
        return group, at
