"""A verdict before it has an id: what the verilog verifier remembers and hands out again for equal work."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from reward.messages import Status, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """`components`: what is known of the design (ladder.py)."""

    status: Status
    reward: float = 0.0
    components: Mapping[str, float] = field(default_factory=dict)
    detail: str = ""
    certain: bool = True  # another try would end the same, so it may be remembered

    def verdict(self, request_id: str, seconds: float) -> Verdict:
        return Verdict(
            id=request_id,
            reward=self.reward,
            status=self.status,
            components=dict(self.components),
            detail=self.detail,
            seconds=seconds,
        )
