"""Back-pressure: a bounded number of responses inside an engine; the others wait in order of age, and none is dropped.

    response --join--> [line: lowest priority number first, then first come] --> place in the engine --leave--> next

The bound keeps vLLM's own queue short. Inside the engine vLLM goes by the same priority. Single-threaded: everything
happens on one event loop.
"""

import asyncio
import heapq
import itertools
import time

Ticket = asyncio.Future  # of bool: True when the response may enter, False when it was sent away


class Admission:
    """`capacity` places. Invariant: nobody waits while a place is free."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.inside = 0
        self.busy_since: float | None = None  # perf_counter of the first entrance after a time of emptiness
        self._busy_s = 0.0
        self._line: list[tuple[int, int, Ticket]] = []
        self._numbers = itertools.count()

    @property
    def waiting(self) -> int:
        """Responses in the line."""
        return sum(not ticket.done() for *_, ticket in self._line)

    @property
    def busy_s(self) -> float:
        """Seconds during which somebody was inside."""
        return self._busy_s + (0.0 if self.busy_since is None else time.perf_counter() - self.busy_since)

    def join(self, priority: int) -> Ticket:
        """Take a place at once, or stand in the line; lower numbers go first. Whoever is let in must `leave` later."""
        ticket = asyncio.get_running_loop().create_future()
        heapq.heappush(self._line, (priority, next(self._numbers), ticket))
        self._call()
        return ticket

    def leave(self) -> None:
        """Give a place back."""
        self.inside -= 1
        self._call()
        if not self.inside:
            self._busy_s, self.busy_since = self.busy_s, None

    def _call(self) -> None:
        while self._line and self.inside < self.capacity:
            *_, ticket = heapq.heappop(self._line)
            if not ticket.done():  # otherwise it was sent away, or whoever waited was cancelled
                self.inside += 1
                self.busy_since = self.busy_since or time.perf_counter()
                ticket.set_result(True)
