"""The policy's last hidden state behind a prompt, for probes that judge prompts (rollout/strategies/diff_adapt).

    expect(name) -> one-token request `name` -> [prompt_states.py: its row of hidden states is kept] -> take(name)

Check: tests/rollout/strategies/test_in_vllm.py.
"""

import asyncio
import itertools
from typing import Any, Protocol

import numpy as np

from rollout.draw.temperature import Fixed
from rollout.errors import DeadlineError
from rollout.messages import GroupRequest, Rollout
from rollout.vllm_adapter.probe import FIRST
from rollout.vllm_adapter.requests import request_id

_numbers = itertools.count()


class Asked(Protocol):
    """What an engine lends for this."""

    async def draw(self, request: GroupRequest, index: int) -> Rollout: ...

    async def ask_workers(self, method: str, *arguments: Any) -> list[Any]:
        """Call a method of vLLM's worker class in every worker."""


async def hidden_state(engine: Asked, prompt_ids: tuple[int, ...], deadline_s: float) -> np.ndarray:
    """float32 [hidden size] behind the final norm at the last prompt token. Raises DeadlineError, EngineLostError."""
    request = GroupRequest(
        group_id=f"hidden-{next(_numbers)}",
        prompt_ids=prompt_ids,
        n=1,
        max_tokens=1,
        temperature=Fixed(),
        priority=FIRST,
    )
    name = request_id(request.group_id, 0)

    async def ask() -> list[float]:
        await engine.ask_workers("expect_hidden_state", name)
        await engine.draw(request, 0)
        found = await engine.ask_workers("take_hidden_state", name)
        return found[0]  # tensor-parallel workers all have the whole of it

    try:
        return np.asarray(await asyncio.wait_for(ask(), deadline_s), np.float32)
    except TimeoutError as late:
        raise DeadlineError(
            f"the engine did not read a prompt of {len(prompt_ids)} tokens within {deadline_s:g} s"
            " (rollout.request_deadline_s): raise the deadline, or lower rollout.max_num_seqs"
        ) from late
