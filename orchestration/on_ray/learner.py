"""The learner as the run loop sees it: all its ranks as one, called one call at a time."""

import asyncio
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from learner.messages import Publication, StepReport, TrainBatch
from learner.worker import LearnerWorker
from orchestration.checkpoint_store import check_arrived
from orchestration.cluster import placement
from orchestration.cluster.bundles import rank_bundle
from orchestration.locate import POLICY
from orchestration.on_ray.actor import Service
from rollout.draw.fit import Drawn, Recomputed

if TYPE_CHECKING:
    from orchestration.on_ray.services import RayServices

log = logging.getLogger(__name__)


class RayLearner:
    """See `orchestration.services.LearnerService`."""

    def __init__(self, services: "RayServices") -> None:
        self._services = services
        self._ranks: list[Service] = []
        self._group: placement.PlacementGroup | None = None
        self._address = ""  # of rank 0's host, as the other hosts of the cluster reach it
        self._turn = asyncio.Lock()  # one call at a time, in order
        self._deadline_s = services.plan.learner.step_deadline_s

    async def start(self, model: Path, checkpoint: Path | None) -> None:
        plan = self._services.plan
        config = plan.learner
        if self._group is not None:
            placement.release(self._group)  # with what may be left of earlier ranks
        self._group = await placement.reserve(
            "the learner",
            [rank_bundle(plan)] * config.ranks,
            strategy=plan.cluster.learner_placement,
            deadline_s=config.start_deadline_s,
        )
        self._address = placement.address(self._group) if plan.cluster.address else "127.0.0.1"
        meeting = self._address if config.ranks > 1 else "127.0.0.1"
        port = placement.meeting_port()
        self._ranks = await asyncio.gather(
            *(
                self._services.start(
                    "learner",
                    LearnerWorker,
                    (model, config, plan.algorithm, rank, config.ranks, meeting, port, plan.seed, plan.run.steps),
                    cpus=config.threads,
                    gpus=config.num_gpus,
                    seat=placement.Seat(self._group, rank).strategy,
                    env={"OMP_NUM_THREADS": str(config.threads)},
                    deadline_s=config.start_deadline_s,
                )
                for rank in range(config.ranks)
            )
        )
        if checkpoint is not None:
            await self._all("load", checkpoint)

    def seat_of(self, rank: int) -> placement.Seat:
        """For an engine that shares the place of this rank."""
        return placement.Seat(self._group, rank, lent=True)

    async def train(self, batch: TrainBatch) -> StepReport:
        async with self._turn:
            return (await self._all("train", ray.put(batch)))[0]

    async def snapshot(self) -> tuple[Publication, Any]:
        async with self._turn:
            transport = self._services.plan.rollout.transport
            address = self._address if transport == "broadcast" else None
            how = self._services.weights_folder, transport == "cuda_ipc", address
            calls = (rank.call_split("publish", *how, deadline_s=self._deadline_s) for rank in self._ranks)
            return (await asyncio.gather(*calls))[0]

    async def score(self, responses: Sequence[Drawn]) -> tuple[int, list[Recomputed]]:
        async with self._turn:
            return (await self._all("score", responses))[0]

    async def save(self, folder: Path) -> None:
        began = time.monotonic()
        async with self._turn:
            asked = time.monotonic()
            await self._all("begin_save", folder, folder / POLICY)
            copied = time.monotonic()
        calls = (rank.call("finish_save", folder, deadline_s=self._deadline_s) for rank in self._ranks)
        answers = await asyncio.gather(*calls, return_exceptions=True)  # nobody writes any more when one failed
        for rank, written in zip(self._ranks, answers, strict=True):
            if isinstance(written, BaseException):
                raise written
            check_arrived(written, f"{rank.name} on {rank.host}")
        log.info(
            "%s: the learner stood still for %.2f s, all is on disk after %.2f s",
            *(folder, copied - asked, time.monotonic() - began),
        )

    async def _all(self, method: str, *arguments: Any) -> list[Any]:
        return await asyncio.gather(
            *(rank.call(method, *arguments, deadline_s=self._deadline_s) for rank in self._ranks)
        )
