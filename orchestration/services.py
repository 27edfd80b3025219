"""What the run loop wants from the outside, as small Protocols; `on_ray` implements them."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from learner.messages import Publication, StepReport, TrainBatch
from reward.messages import Verdict, VerifyRequest
from rollout.draw.fit import Drawn, Recomputed
from rollout.messages import EngineMetrics, GroupRequest, Rollout, WeightConfirmation


class RolloutService(Protocol):
    """One rollout worker. Every call raises WorkerFailure; `died` says whether the worker is gone for good."""

    name: str

    def generate(self, request: GroupRequest) -> AsyncIterator[Rollout]:
        """Each rollout of the group as it finishes; whoever stops iterating early ends the rest."""

    async def update_weights(self, publication: Publication, payload: Any) -> WeightConfirmation: ...

    async def sleep(self) -> None:
        """Give the memory of the GPU up until the next `update_weights`."""

    async def metrics(self) -> EngineMetrics: ...


class VerifierService(Protocol):
    """Verdicts in the order of the requests; a lost verifier process is replaced behind this call."""

    async def verify(self, requests: Sequence[VerifyRequest]) -> list[Verdict]: ...


class LearnerService(Protocol):
    """All learner ranks as one; calls run one after the other, in the order they were made."""

    async def train(self, batch: TrainBatch) -> StepReport: ...

    async def snapshot(self) -> tuple[Publication, Any]:
        """The present weights, ready to be handed to `RolloutService.update_weights`."""

    async def score(self, responses: Sequence[Drawn]) -> tuple[int, list[Recomputed]]:
        """The learner's version, and what its weights say of each response."""

    async def save(self, folder: Path) -> None:
        """Write everything a resumed learner needs, and the policy as a Hugging Face folder `policy/`.

        Both are as of when this call's turn comes. The turn ends when they are copied, so later calls run while files
        are written; the answer comes when all are on disk.
        """


class Services(Protocol):
    """Everything the loop talks to. `start_rollout_worker` raises WorkerFailure when no restart is left."""

    learner: LearnerService
    verifier: VerifierService

    async def start_rollout_worker(self) -> RolloutService: ...

    def dump_stacks(self) -> None:
        """Ask every local actor to write its stacks to its log."""


async def whole_group(rollouts: AsyncIterator[Rollout]) -> list[Rollout]:
    """All rollouts of a group, in the order of their indices."""
    return sorted([rollout async for rollout in rollouts], key=lambda rollout: rollout.index)
