"""A verdict before it has an id: what the verilog verifier remembers and hands out again for equal work."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from reward.messages import Status, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """`components`: parse, compile (0 or 1), match (fraction of agreeing samples), as far as the design came."""

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


def malformed(reason: str) -> Judgement:
    return Judgement(status=Status.MALFORMED, components={"parse": 0.0}, detail=reason)
