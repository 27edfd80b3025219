"""The queue of one verifier: units wait, at most `workers` batches of them are at work, nobody else's lane is touched.

put / judge --> waiting (at most max_waiting responses) --> batches of whole units --> Verifier.verify, in a thread
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from reward.errors import NoRoom, RewardError
from reward.messages import Verdict, VerifyRequest
from reward.verifier import Verifier

log = logging.getLogger(__name__)

SHARES_EACH = 3  # of what waits, a runner takes one part in so many per worker (guided self-scheduling)
MIN_SHARE = 4  # responses, where as many wait: smaller batches simulate fewer designs at a time
MAX_BATCH = 1024  # responses handed to a verifier at once; a larger unit goes alone

Unit = tuple[VerifyRequest, ...]  # judged together: a single request, or all of a group
Answer = asyncio.Future[list[Verdict]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Responses of one verifier: `waiting` for a worker, `busy` being judged."""

    waiting: int
    busy: int


class Lane:
    """The queue of one verifier and its runners. Lives on one event loop."""

    def __init__(self, verifier: Verifier, workers: int, max_waiting: int) -> None:
        self.verifier = verifier
        self._max_waiting = max_waiting
        self._queue: deque[tuple[Unit, Answer]] = deque()
        self._waiting = 0  # responses in `_queue`
        self._judging = 0  # responses at work
        self._door = asyncio.Lock()  # whoever waits for room holds it: first come, first served
        self._moved = asyncio.Event()  # the queue became shorter
        self._closed = False
        self._workers = workers
        self._runners: set[asyncio.Task[None]] = set()  # kept so that `close` can wait for them
        self._active = 0  # runners that will still look at `_queue`; `_runners` forgets them a moment too late
        self._busy = 0  # runners with a batch
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix=f"verify-{verifier.name}")

    def load(self) -> Load:
        return Load(waiting=self._waiting, busy=self._judging)

    def room(self) -> int:
        """Responses that can be put in now."""
        return 0 if self._door.locked() else max(0, self._max_waiting - self._waiting)

    def require_room(self, responses: int) -> None:
        """Raises NoRoom. An empty queue takes any number, so that nobody is refused for ever."""
        if self._door.locked() or not self._fits(responses):
            raise NoRoom(
                f"{self._waiting} responses wait for the verifier {self.verifier.name} and at most"
                f" {self._max_waiting} may: ask again later"
            )

    async def judge(self, units: Sequence[Unit]) -> list[list[Verdict]]:
        """Put units in as there is room for them, and wait for their verdicts."""
        answers: list[Answer] = []
        try:
            async with self._door:
                for unit in units:
                    while not self._fits(len(unit)):
                        self._moved.clear()
                        await self._moved.wait()
                    answers.append(self.put(unit))
            return await asyncio.gather(*answers)
        finally:
            for answer in answers:  # the caller has gone: what is not at work yet need not be judged
                answer.cancel()

    def _fits(self, responses: int) -> bool:
        return self._closed or not self._waiting or self._waiting + responses <= self._max_waiting

    def put(self, unit: Unit) -> Answer:
        """Queue a unit without asking for room."""
        answer: Answer = asyncio.get_running_loop().create_future()
        if self._closed:
            answer.set_exception(closed())
            return answer
        self._queue.append((unit, answer))
        self._waiting += len(unit)
        if self._active < self._workers:
            self._active += 1
            runner = asyncio.create_task(self._run())
            self._runners.add(runner)
            runner.add_done_callback(self._runners.discard)
        return answer

    async def _run(self) -> None:
        """Take what waits as one batch, until nothing does."""
        try:
            while self._queue:
                await self._run_batch()
        finally:
            self._active -= 1  # no await since `_queue` was seen empty: nobody can have counted on this runner

    def _next_batch(self) -> list[tuple[Unit, Answer]]:
        """This runner's share of what waits, in whole units.

        Several workers take less than an even share, so that one with slow units does not keep the others waiting.
        """
        portions = SHARES_EACH * self._workers if self._workers > 1 else 1
        share = min(max(-(-self._waiting // portions), MIN_SHARE), MAX_BATCH)
        batch: list[tuple[Unit, Answer]] = []
        taken = 0
        while self._queue and (not batch or taken + len(self._queue[0][0]) <= share):
            unit, answer = self._queue.popleft()
            self._waiting -= len(unit)
            if not answer.done():  # its caller still waits
                batch.append((unit, answer))
                taken += len(unit)
        self._moved.set()
        return batch

    async def _run_batch(self) -> None:
        batch = self._next_batch()
        requests = [request for unit, _ in batch for request in unit]
        if not requests:
            return
        self._busy += 1
        self._judging += len(requests)
        try:
            verdicts = await asyncio.get_running_loop().run_in_executor(self._threads, self._verify, requests)
        except BaseException as error:  # every caller of the batch must hear of it, a cancelled runner's too
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(error)
            if not isinstance(error, Exception):
                raise
            return
        finally:
            self._busy -= 1
            self._judging -= len(requests)
        rest = iter(verdicts)
        for unit, answer in batch:
            of_unit = [next(rest) for _ in unit]
            if not answer.done():
                answer.set_result(of_unit)

    def _verify(self, requests: list[VerifyRequest]) -> list[Verdict]:
        """In a thread. Whatever goes wrong in a verifier, a stranger's too, leaves as one RewardError."""
        started = time.monotonic()
        name = self.verifier.name
        try:
            verdicts = self.verifier.verify(requests)
        except RewardError:
            raise
        except Exception as error:
            if self._closed:
                raise closed() from error
            log.exception("the verifier %s failed", name)
            raise RewardError(
                f"the verifier {name} failed on a batch of {len(requests)} responses, which is a fault of its own:"
                f" {type(error).__name__}: {error}"
            ) from error
        if [verdict.id for verdict in verdicts] != [request.id for request in requests]:
            raise RewardError(f"the verifier {name} did not give one verdict per request in their order")
        log.debug("%s judged %d responses in %.3f s", name, len(requests), time.monotonic() - started)
        return verdicts

    async def close(self) -> None:
        """End the verifier's processes; whoever still waits gets a RewardError."""
        self._closed = True
        for _, answer in self._queue:
            if not answer.done():
                answer.set_exception(closed())
        self._queue.clear()
        self._waiting = 0
        self._moved.set()
        self.verifier.close()
        await asyncio.gather(*self._runners, return_exceptions=True)
        self._threads.shutdown(wait=True)


def closed() -> RewardError:
    return RewardError("the verifier service was closed before this response was judged")
