"""The seam between the rollout worker and what generates: eight methods, implemented by two vLLM engines."""

from collections.abc import AsyncIterator
from typing import Protocol

import numpy as np

from rollout.messages import EngineHealth, EngineMetrics, GroupRequest, Rollout, WeightConfirmation, WeightUpdate


class Engine(Protocol):
    """Generates while it is being updated: requests in flight go on with the new weights, and their spans say so.

    Every call raises EngineLostError, and every call that waits ends with it, once the engine is dead.
    """

    def generate(self, request: GroupRequest) -> AsyncIterator[Rollout]:
        """Each rollout of the group as it finishes, in any order. Whoever stops iterating early ends the rest.

        Raises RequestError for a request the engine cannot run, DeadlineError after rollout.request_deadline_s.
        """

    async def abort(self, group_id: str) -> int:
        """End a group: its iterator yields what each response has, FinishReason.ABORT. Returns how many were ended."""

    async def hidden_state(self, prompt_ids: tuple[int, ...]) -> np.ndarray:
        """float32 [hidden size]: what the policy's head reads at the last prompt token, behind the final norm."""

    async def update_weights(self, update: WeightUpdate) -> WeightConfirmation:
        """Swap weights between two engine steps. Raises WeightUpdateError unless checksum and probe agree."""

    async def sleep(self) -> None:
        """Give up the GPU's memory until the next `update_weights`: weights go to the host, keys and values vanish.

        Raises RequestError while a group is generated. Without a GPU nothing is given up, and the rest is the same.
        """

    async def metrics(self) -> EngineMetrics: ...

    async def health(self) -> EngineHealth:
        """Whether the engine lives and moves. Answers at once, whatever the engine does."""

    async def close(self) -> None: ...
