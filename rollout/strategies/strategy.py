"""The seam of decoding strategies: what the worker offers them, and what they offer the worker.

    worker --GroupRequest--> RolloutSource --GroupRequests of its own--> Engine(s)
                                 `--Rollout, as each is finished--> worker

A strategy is a frozen configuration; `over` sets it to work on a worker's engines. An engine is a source itself, so the
plain strategy costs nothing.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from rollout.messages import GroupRequest, Rollout

OTHER_MODEL = "other_model"  # a second engine, which serves the folder in the strategy's field of this name
HIDDEN = "hidden"  # the policy's last hidden state behind a prompt
SECOND_TEMPERATURE = "second_temperature"  # a temperature controller in the strategy's field `second`


class RolloutSource(Protocol):
    """Draws groups, as an engine does."""

    def generate(self, request: GroupRequest) -> AsyncIterator[Rollout]:
        """The `n` rollouts of the group, each as it is finished. Raises RolloutError."""

    async def abort(self, group_id: str) -> int:
        """End the group's responses now; `generate` yields what they have. Returns how many; 0: no such group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What a worker has for its strategy.

    vocab_size  rows of the policy's embedding: what another model draws beyond them, the policy cannot read
    version     of the weights that the policy draws with now
    hidden      prompt ids -> float32 [hidden size]: the policy's last hidden state (behind the final norm) at the last
                prompt token, which is what its head reads; None where the strategy does not need it
    """

    policy: RolloutSource
    other: RolloutSource | None
    encode: Callable[[str], tuple[int, ...]]
    decode: Callable[[Sequence[int]], str]
    vocab_size: int
    version: Callable[[], int]
    deadline_s: float  # the longest a group may take
    hidden: Callable[[tuple[int, ...]], Awaitable[np.ndarray]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What of a run's configuration a strategy has to fit."""

    group_size: int
    max_tokens: int
    learned_temperature: bool  # by a head on the policy's hidden state, from token to token
    plain_draw: bool  # temperature fixed at 1, no truncation

    def refuse_learned_temperature(self, strategy: str) -> None:
        """For strategies that draw a response in several goes: the head's chain would start anew with each."""
        if self.learned_temperature:
            raise ValueError(
                f"strategy={strategy} draws a response piece by piece, which a learned temperature head cannot follow:"
                " choose another temperature, or strategy=none"
            )


class RolloutStrategy(Protocol):
    """A way to make responses of an engine's draws. Each says in its records which tokens the policy itself drew."""

    needs: ClassVar[frozenset[str]]  # of OTHER_MODEL, HIDDEN, SECOND_TEMPERATURE

    def check(self, run: Circumstances) -> None:
        """Raises ValueError, one sentence, where the strategy cannot work in this run. Looks at no file."""

    def check_files(self) -> None:
        """Raises RolloutError, one sentence, where a file it needs is missing or something else. Loads no model."""

    def over(self, resources: Resources) -> RolloutSource:
        """The strategy at work. Raises RolloutError where the resources do not fit."""
