"""A rollout worker as the run loop sees it: an actor with an engine, dead unless it says that it is well."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import Any

import numpy as np

from learner.messages import Publication
from orchestration.errors import WorkerFailure
from orchestration.on_ray.actor import Service
from rollout.config import RolloutConfig
from rollout.errors import EngineLostError
from rollout.messages import EngineHealth, EngineMetrics, GroupRequest, Rollout, WeightConfirmation


class RayRollout:
    """See `orchestration.services.RolloutService`. An engine that is dead or stuck makes its worker a dead worker."""

    def __init__(self, service: Service, config: RolloutConfig) -> None:
        self.name = service.name
        self._service = service
        self._config = config

    async def generate(self, request: GroupRequest) -> AsyncIterator[Rollout]:
        # The engine's own deadline comes first: it knows which group was late.
        deadline_s = self._config.request_deadline_s + self._config.health_deadline_s
        async with contextlib.aclosing(self._service.stream("generate", request, deadline_s=deadline_s)) as answers:
            while rollouts := await self._watched(anext(answers, None)):
                for rollout in rollouts:
                    yield rollout

    async def abort(self, group_id: str) -> int:
        return await self._call("abort", group_id, deadline_s=self._config.health_deadline_s)

    async def update_weights(self, publication: Publication, payload: Any) -> WeightConfirmation:
        return await self._watched(
            self._service.call(
                "update_weights",
                publication.version,
                publication.checksum,
                publication.probe_ids,
                publication.probe_entropy,
                payload,
                deadline_s=self._config.request_deadline_s,
            )
        )

    async def sleep(self) -> None:
        await self._call("sleep", deadline_s=self._config.request_deadline_s)

    async def hidden_state(self, prompt_ids: tuple[int, ...]) -> np.ndarray:
        """See `rollout.engine.Engine`."""
        deadline_s = self._config.request_deadline_s + self._config.health_deadline_s
        return await self._watched(self._service.call("hidden_state", prompt_ids, deadline_s=deadline_s))

    async def metrics(self) -> EngineMetrics:
        return await self._call("metrics", deadline_s=self._config.health_deadline_s)

    async def health(self) -> EngineHealth:
        return await self._call("health", deadline_s=self._config.health_deadline_s)

    async def _call(self, method: str, *arguments: Any, deadline_s: float) -> Any:
        with self._lost_is_dead():
            return await self._service.call(method, *arguments, deadline_s=deadline_s)

    async def _watched(self, answer: Awaitable[Any]) -> Any:
        """Wait for an answer, and ask after the engine while it does not come."""
        waiting = asyncio.ensure_future(answer)
        try:
            while not (await asyncio.wait({waiting}, timeout=self._config.health_every_s))[0]:
                await self._check()
            with self._lost_is_dead():
                return waiting.result()
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)  # it may have failed, too, meanwhile

    async def _check(self) -> None:
        """Raise WorkerFailure, and end the worker, unless its engine answers that it is well."""
        try:
            health = await self.health()
        except WorkerFailure as failure:
            if failure.died:
                raise
            raise self._dead(f"{self.name} does not say whether it is well: {failure}") from failure
        if not health.well:
            raise self._dead(health.reason)

    @contextlib.contextmanager
    def _lost_is_dead(self) -> Iterator[None]:
        """Nobody can tell a worker that hangs from one whose host is cut off, which answers nothing at all."""
        try:
            yield
        except WorkerFailure as failure:
            if isinstance(failure.__cause__, EngineLostError | TimeoutError):
                raise self._dead(str(failure)) from failure
            raise

    def _dead(self, reason: str) -> WorkerFailure:
        self._service.kill()
        return WorkerFailure(reason, worker=self.name, died=True)
