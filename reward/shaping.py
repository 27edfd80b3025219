"""What is added to a verdict's reward for how the response was written rather than what it says: penalties on length.

verdict.reward in [0, 1] --plus each piece of `reward.shaping`--> the reward that is trained, which may leave [0, 1]

A run applies it (orchestration/buffer.py), because only a run knows tokens. Rewards for format are the verifiers
`instructions` and `composed`.
"""

from dataclasses import dataclass
from typing import Protocol


class Shaping(Protocol):
    """One piece: from the length of a response to what is added to its reward."""

    def check(self, task_tokens: int) -> None:
        """Raises ValueError where it cannot work with responses of at most `task_tokens` tokens."""

    def __call__(self, tokens: int, task_tokens: int) -> float: ...


@dataclass(frozen=True, kw_only=True)
class OverlongPenalty:
    """A response that comes close to the longest one allowed loses reward, the more the closer.

    Rule    Lmax = max_tokens, Lc = buffer_tokens: 0 up to Lmax - Lc tokens, (Lmax - Lc - tokens) / Lc * factor inside
            the buffer, -factor from Lmax on.
    Source  soft overlong punishment of DAPO, arXiv:2503.14476, K (Lmax 20480, Lc 4096, factor 1).
    Units   tokens, the end-of-sequence token included; `max_tokens` None: the task's limit, at which responses are cut.
    Traps   a group whose verdicts all agree no longer has one reward, so MixedGroupsOnly keeps it and trains on length
            alone (the paper filters by accuracy). Length may collapse: watch rollout/response_tokens.
    """

    buffer_tokens: int
    factor: float = 1.0
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.buffer_tokens < 1 or (self.max_tokens is not None and self.buffer_tokens > self.max_tokens):
            raise ValueError(
                f"OverlongPenalty.buffer_tokens is at least 1 and at most max_tokens, got {self.buffer_tokens}"
                f" with max_tokens {self.max_tokens}"
            )
        if not self.factor > 0.0:
            raise ValueError(f"OverlongPenalty.factor is above 0, got {self.factor}")

    def check(self, task_tokens: int) -> None:
        """Raises ValueError where no response can reach the penalty, or all have it."""
        longest = self.max_tokens or task_tokens
        if self.buffer_tokens > longest or longest > task_tokens:
            raise ValueError(
                f"OverlongPenalty needs buffer_tokens <= max_tokens <= task.max_tokens, got {self.buffer_tokens},"
                f" {longest} and {task_tokens}"
            )

    def __call__(self, tokens: int, task_tokens: int) -> float:
        """In [-factor, 0]."""
        free = (self.max_tokens or task_tokens) - self.buffer_tokens
        share = (tokens - free) / self.buffer_tokens
        return -self.factor * min(1.0, max(0.0, share))
