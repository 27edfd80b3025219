"""The seam between the rollout worker and what generates: four methods, implemented by two vLLM engines."""

from typing import Protocol

from rollout.messages import EngineMetrics, GroupRequest, Rollout, WeightConfirmation, WeightUpdate


class Engine(Protocol):
    """Generates while it is being updated: requests in flight go on with the new weights, and their spans say so."""

    async def generate(self, request: GroupRequest) -> list[Rollout]:
        """All `n` rollouts of the group, in index order. Raises RequestError for a request the engine cannot run."""

    async def update_weights(self, update: WeightUpdate) -> WeightConfirmation:
        """Swap weights between two engine steps. Raises WeightUpdateError unless checksum and probe agree."""

    async def metrics(self) -> EngineMetrics: ...

    async def close(self) -> None: ...
