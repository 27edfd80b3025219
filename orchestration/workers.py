"""The rollout workers of a run by name: those that are up. One that dies is told of once, and is nobody's from then on.

start() --> RolloutService --calls--> WorkerFailure --> failed() --> `lost`, which starts another
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from learner.messages import Publication
from orchestration.errors import WorkerFailure
from orchestration.services import RolloutService, Services
from rollout.errors import RolloutError
from rollout.messages import EngineMetrics, WeightConfirmation

log = logging.getLogger(__name__)


class Workers:
    """Calls to them, where the death of one is no error but news: `lost` gets its failure."""

    def __init__(self, services: Services, lost: Callable[[WorkerFailure], None]) -> None:
        self._services = services
        self._lost = lost
        self._up: dict[str, RolloutService] = {}

    async def start(self) -> RolloutService:
        """One more. Raises WorkerFailure when no restart is left."""
        worker = await self._services.start_rollout_worker()
        self._up[worker.name] = worker
        return worker

    def get(self, name: str) -> RolloutService | None:
        """None where it died since."""
        return self._up.get(name)

    def those(self, names: Iterable[str]) -> list[RolloutService]:
        """Of these, the ones that live."""
        return [self._up[name] for name in names if name in self._up]

    def failed(self, failure: WorkerFailure) -> None:
        """A dead worker is reported once; one that lives but failed is a fault, which is raised."""
        if not failure.died:
            raise failure
        if self._up.pop(failure.worker, None) is not None:
            log.warning("%s; its groups run again on another worker", failure)
            self._lost(failure)

    async def send(self, worker: RolloutService, publication: Publication, payload: Any) -> WeightConfirmation | None:
        """New weights; the worker's word, which is right, or None where it died.

        Raises RolloutError where it confirms something else than it was sent.
        """
        confirmation = await self._ask(worker, worker.update_weights(publication, payload))
        if confirmation is None:
            return None
        if (confirmation.version, confirmation.checksum) != (publication.version, publication.checksum):
            raise RolloutError(
                f"{worker.name} confirmed v{confirmation.version} ({confirmation.checksum}) but was sent"
                f" v{publication.version} ({publication.checksum})"
            )
        return confirmation

    async def sleep(self) -> None:
        """All of them, until new weights come."""
        await asyncio.gather(*(self._ask(worker, worker.sleep()) for worker in self._up.values()))

    async def metrics(self) -> dict[str, EngineMetrics]:
        """Of all at once: those that are cut off are waited for together."""
        asked = list(self._up.values())
        answers = await asyncio.gather(*(self._ask(worker, worker.metrics()) for worker in asked))
        return {worker.name: answer for worker, answer in zip(asked, answers, strict=True) if answer is not None}

    async def _ask(self, worker: RolloutService, call: Coroutine[Any, Any, Any]) -> Any:
        try:
            return await call
        except WorkerFailure as failure:
            self.failed(failure)
            return None
