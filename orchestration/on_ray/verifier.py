"""The verifiers as the run loop sees them: an actor with a pool of sandboxed processes, replaced when it dies."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from orchestration.cluster import placement
from orchestration.cluster.bundles import verifier_bundle
from orchestration.errors import WorkerFailure
from orchestration.on_ray.actor import Service
from reward.messages import Verdict, VerifyRequest
from reward.service import VerifierPool

if TYPE_CHECKING:
    from orchestration.on_ray.services import RayServices

START_S = 120.0


class RayVerifier:
    """See `orchestration.services.VerifierService`: a dead pool is started again and gets the requests once more."""

    def __init__(self, services: "RayServices") -> None:
        self._services = services
        self._service: Service
        self._group: placement.PlacementGroup | None = None
        self._replacing = asyncio.Lock()

    async def start(self) -> None:
        plan = self._services.plan
        if self._group is not None:
            placement.release(self._group)
        self._group = await placement.reserve(
            "the verifier", [verifier_bundle(plan)], deadline_s=plan.rollout.start_deadline_s
        )
        self._service = await self._services.start(
            "verifier",
            VerifierPool,
            (plan.reward,),
            cpus=0,
            seat=placement.Seat(self._group).strategy,
            env={"OMP_NUM_THREADS": "1"},
            deadline_s=START_S,
        )

    async def verify(self, requests: Sequence[VerifyRequest]) -> list[Verdict]:
        while True:
            service = self._service
            try:
                return await service.call("verify", list(requests), deadline_s=self._services.plan.run.stall_deadline_s)
            except WorkerFailure as failure:
                if not failure.died:
                    raise
                async with self._replacing:
                    if self._service is service:  # nobody else has replaced it yet
                        await self._services.before_restart(failure)
                        await self.start()
