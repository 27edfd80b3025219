"""The queue of one verifier: units wait, every worker has at most one batch of them, nobody else's lane is touched.

put / judge --> waiting (at most max_waiting responses) --> batches of whole units --> Verifier.verify, in a thread

Where workers are processes of their own (reward/replica.py), each prepares references for itself: units with one
reference wait as one subject, and whole subjects go to the worker that judged them last, or to an idle one.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from reward.cache import RecentlyUsed
from reward.errors import NoRoom, RewardError
from reward.messages import Verdict, VerifyRequest
from reward.verifier import Verifier

log = logging.getLogger(__name__)

SHARES_EACH = 3  # of what waits, a runner takes one part in so many per worker (guided self-scheduling)
MIN_SHARE = 4  # responses, where as many wait: smaller batches simulate fewer designs at a time
MAX_BATCH = 1024  # responses handed to a verifier at once; a larger unit goes alone
TOGETHER = 64  # responses of one subject that go to one worker as they are
SLOW_S = 0.3  # a subject with a verdict that took longer goes in small parts, so that several workers can share it
SLOW_SHARE = 8  # responses
SUBJECTS = 4096  # that are remembered

Unit = tuple[VerifyRequest, ...]  # judged together: a single request, or all of a group
Answer = asyncio.Future[list[Verdict]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Responses of one verifier: `waiting` for a worker, `busy` being judged."""

    waiting: int
    busy: int


@dataclass(frozen=True, slots=True)
class Past:
    """What is known of a subject: who judged it last, and whether that took long."""

    worker: int | None = None
    slow: bool = False


NEW = Past()


class Lane:
    """The queue of one verifier and its runners. Lives on one event loop.

    `workers`: the verifier of each worker, a replica of its own or all the same object.
    """

    def __init__(self, workers: Sequence[Verifier], max_waiting: int) -> None:
        self.name = workers[0].name
        self._workers = workers
        self._by_subject = len(set(map(id, workers))) > 1
        self._max_waiting = max_waiting
        self._queue: dict[int, deque[tuple[Unit, Answer]]] = {}  # by subject, the one that waits longest first
        self._past: RecentlyUsed[Past] = RecentlyUsed(SUBJECTS)
        self._waiting = 0  # responses in `_queue`
        self._judging = 0  # responses at work
        self._door = asyncio.Lock()  # whoever waits for room holds it: first come, first served
        self._moved = asyncio.Event()  # the queue became shorter
        self._closed = False
        self._runners: set[asyncio.Task[None]] = set()  # kept so that `close` can wait for them
        self._free = list(range(len(workers)))  # workers without a runner that will still look at `_queue`
        self._threads = ThreadPoolExecutor(len(workers), thread_name_prefix=f"verify-{self.name}")

    def pids(self) -> list[int]:
        return [pid for verifier in self._verifiers() for pid in verifier.pids()]

    def _verifiers(self) -> list[Verifier]:
        return list({id(verifier): verifier for verifier in self._workers}.values())

    def load(self) -> Load:
        return Load(waiting=self._waiting, busy=self._judging)

    def room(self) -> int:
        """Responses that can be put in now."""
        return 0 if self._door.locked() else max(0, self._max_waiting - self._waiting)

    def require_room(self, responses: int) -> None:
        """Raises NoRoom. An empty queue takes any number, so that nobody is refused for ever."""
        if self._door.locked() or not self._fits(responses):
            raise NoRoom(
                f"{self._waiting} responses wait for the verifier {self.name} and at most"
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

    def _subject(self, unit: Unit) -> int:
        return hash(repr(unit[0].reference)) if self._by_subject else 0

    def _fits(self, responses: int) -> bool:
        return self._closed or not self._waiting or self._waiting + responses <= self._max_waiting

    def put(self, unit: Unit) -> Answer:
        """Queue a unit without asking for room."""
        answer: Answer = asyncio.get_running_loop().create_future()
        if self._closed:
            answer.set_exception(closed())
            return answer
        subject = self._subject(unit)
        self._queue.setdefault(subject, deque()).append((unit, answer))
        self._waiting += len(unit)
        if self._free:
            last = (self._past.get(subject) or NEW).worker
            worker = last if last in self._free else self._free[0]
            self._free.remove(worker)
            runner = asyncio.create_task(self._run(worker))
            self._runners.add(runner)
            runner.add_done_callback(self._runners.discard)
        return answer

    async def _run(self, worker: int) -> None:
        """Take what waits as one batch, until nothing does."""
        try:
            while self._queue:
                await self._run_batch(worker)
        finally:
            self._free.append(worker)  # no await since `_queue` was seen empty: nobody can have counted on this runner

    def _next_batch(self, worker: int) -> list[tuple[Unit, Answer]]:
        """This worker's share of what waits, in whole units.

        Several workers take less than an even share, so that one with slow units does not keep the others waiting.
        """
        portions = SHARES_EACH * len(self._workers) if len(self._workers) > 1 else 1
        share = min(max(-(-self._waiting // portions), MIN_SHARE), MAX_BATCH)
        batch: list[tuple[Unit, Answer]] = []
        taken = 0
        past = {subject: self._past.get(subject) or NEW for subject in self._queue}
        mine = [subject for subject, known in past.items() if known.worker in (None, worker)]
        for subject in mine or list(past):
            units, slow = self._queue[subject], past[subject].slow
            if slow and batch:
                continue  # it waits for a batch of its own
            most = SLOW_SHARE if slow else max(share, TOGETHER) if self._by_subject else share
            while units and (not batch or taken + len(units[0][0]) <= most):
                unit, answer = units.popleft()
                self._waiting -= len(unit)
                if not answer.done():  # its caller still waits
                    batch.append((unit, answer))
                    taken += len(unit)
            if not units:
                del self._queue[subject]
            self._past.put(subject, Past(None if units else worker, slow))
            if slow or taken >= share:
                break
        self._moved.set()
        return batch

    async def _run_batch(self, worker: int) -> None:
        batch = self._next_batch(worker)
        requests = [request for unit, _ in batch for request in unit]
        if not requests:
            return
        self._judging += len(requests)
        try:
            verdicts = await asyncio.get_running_loop().run_in_executor(
                self._threads, self._verify, self._workers[worker], requests
            )
        except BaseException as error:  # every caller of the batch must hear of it, a cancelled runner's too
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(error)
            if not isinstance(error, Exception):
                raise
            return
        finally:
            self._judging -= len(requests)
        rest = iter(verdicts)
        for unit, answer in batch:
            of_unit = [next(rest) for _ in unit]
            slow = max(verdict.seconds for verdict in of_unit) > SLOW_S
            self._past.put(self._subject(unit), Past(worker, slow))
            if not answer.done():
                answer.set_result(of_unit)

    def _verify(self, verifier: Verifier, requests: list[VerifyRequest]) -> list[Verdict]:
        """In a thread. Whatever goes wrong in a verifier, a stranger's too, leaves as one RewardError."""
        started = time.monotonic()
        name = self.name
        try:
            verdicts = verifier.verify(requests)
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
        for units in self._queue.values():
            for _, answer in units:
                if not answer.done():
                    answer.set_exception(closed())
        self._queue.clear()
        self._waiting = 0
        self._moved.set()
        for verifier in self._verifiers():
            verifier.close()
        await asyncio.gather(*self._runners, return_exceptions=True)
        self._threads.shutdown(wait=True)


def closed() -> RewardError:
    return RewardError("the verifier service was closed before this response was judged")
