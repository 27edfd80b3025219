"""The verifier service: many callers in, verdicts out, with at most `workers` batches of one verifier at work.

    verify() --> queue of the request's verifier --> runner threads --> verdicts, counted by status
                 (what waits while a batch runs is the next batch)

A plain class with async methods; orchestration makes a Ray actor of it. A fault of a verifier is an exception for the
callers it touches; everything that can be said about a response is a verdict.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from reward.config import RewardConfig
from reward.messages import Status, Verdict, VerifyRequest
from reward.verifier import Verifier, verifier_class

log = logging.getLogger(__name__)

MAX_BATCH = 1024  # requests handed to a verifier at once


def check_tools(verifiers: Sequence[str], config: RewardConfig) -> None:
    """Raises RewardError, one sentence, where a verifier is unknown or cannot work on this machine."""
    for name in verifiers:
        verifier_class(name).check(config)


class VerifierPool:
    """Judges requests of any registered verifier; each verifier starts when it is first asked."""

    def __init__(self, config: RewardConfig) -> None:
        self._config = config
        self._lanes: dict[str, Lane] = {}
        self._counts: Counter[str] = Counter()

    async def verify(self, requests: Sequence[VerifyRequest]) -> list[Verdict]:
        """One verdict per request, in order. Raises RewardError for an unknown verifier or a broken set-up."""
        verdicts = await asyncio.gather(*(self._lane(request.verifier).judge(request) for request in requests))
        self._counts.update(verdict.status.value for verdict in verdicts)
        return list(verdicts)

    async def counts(self) -> dict[str, int]:
        """Verdicts given so far, by status."""
        return {status.value: self._counts[status.value] for status in Status}

    async def pids(self) -> list[int]:
        """Worker processes alive now, for tests and diagnosis."""
        return [pid for lane in self._lanes.values() for pid in lane.verifier.pids()]

    async def close(self) -> None:
        """End every worker process; requests still waiting fail."""
        lanes, self._lanes = list(self._lanes.values()), {}
        await asyncio.gather(*(lane.close() for lane in lanes))

    def _lane(self, name: str) -> "Lane":
        if name not in self._lanes:
            verifier = verifier_class(name)(self._config)
            self._lanes[name] = Lane(verifier, self._config.workers_for(name))
        return self._lanes[name]


class Lane:
    """The queue of one verifier and its runners."""

    def __init__(self, verifier: Verifier, workers: int) -> None:
        self.verifier = verifier
        self._waiting: list[tuple[VerifyRequest, asyncio.Future[Verdict]]] = []
        self._workers = workers
        self._runners: set[asyncio.Task[None]] = set()  # kept so that `close` can wait for them
        self._active = 0  # runners that will still look at `_waiting`; `_runners` forgets them a moment too late
        self._busy = 0  # runners with a batch
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix=f"verify-{verifier.name}")

    async def judge(self, request: VerifyRequest) -> Verdict:
        future: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        if self._active < self._workers:
            self._active += 1
            runner = asyncio.create_task(self._run())
            self._runners.add(runner)
            runner.add_done_callback(self._runners.discard)
        return await future

    async def _run(self) -> None:
        """Take what waits as one batch, until nothing does."""
        try:
            while self._waiting:
                await self._run_batch()
        finally:
            self._active -= 1  # no await since `_waiting` was seen empty: nobody can have counted on this runner

    async def _run_batch(self) -> None:
        share = -(-len(self._waiting) // (self._workers - self._busy))
        batch = self._waiting[: min(share, MAX_BATCH)]
        del self._waiting[: len(batch)]
        self._busy += 1
        started = time.monotonic()
        try:
            verdicts = await asyncio.get_running_loop().run_in_executor(
                self._threads, self.verifier.verify, [request for request, _ in batch]
            )
        except BaseException as error:  # every caller of the batch must hear of it, a cancelled runner's too
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            if not isinstance(error, Exception):
                raise
            return
        finally:
            self._busy -= 1
        log.debug("%s judged %d responses in %.3f s", self.verifier.name, len(batch), time.monotonic() - started)
        for (_, future), verdict in zip(batch, verdicts, strict=True):
            if not future.done():
                future.set_result(verdict)

    async def close(self) -> None:
        for _, future in self._waiting:
            future.cancel()
        self._waiting.clear()
        self.verifier.close()
        runners = list(self._runners)
        for runner in runners:
            with contextlib.suppress(asyncio.CancelledError):
                await runner
        self._threads.shutdown(wait=True)
