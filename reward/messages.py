"""What crosses the border of the verifier service: a request goes in, a verdict comes out, matched by id."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """What a verdict says. Only `SCORED` judges the response as an answer; the others are counted apart.

    SCORED     the verifier ran to its end; `reward` is its judgement
    TIMEOUT    the deadline passed before a judgement
    RESOURCE   the response hit a memory, CPU or output limit
    MALFORMED  the response cannot be judged (no answer found, does not parse, forbidden construct); `reward` is 0,
               or what a configured ladder gives for the first rungs
    ERROR      a fault of ours or of the reference; says nothing about the response
    """

    SCORED = "scored"
    TIMEOUT = "timeout"
    RESOURCE = "resource"
    MALFORMED = "malformed"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyRequest:
    """One response to judge. `verifier` names a registered verifier; `reference` is what that verifier needs.

    Requests with equal `group` are responses to one task. Given together, they are judged together, which verifiers
    that compare responses with each other need (majority, similarity); to the others it means nothing.
    """

    id: str
    verifier: str
    response: str
    reference: Mapping[str, Any]
    group: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The judgement of one response.

    `reward` is in [0, 1] and meaningful only where `trainable`; `components` are the named parts it is made of;
    `detail` is one sentence for a person; `seconds` is the time spent judging.
    """

    id: str
    reward: float
    status: Status
    components: Mapping[str, float] = field(default_factory=dict)
    detail: str = ""
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.reward <= 1.0:
            raise ValueError(f"Verdict.reward is in [0, 1], got {self.reward} for {self.id}")

    @property
    def trainable(self) -> bool:
        """True where the policy may learn from the reward: judged, or so broken that it cannot be judged."""
        return self.status in (Status.SCORED, Status.MALFORMED)
