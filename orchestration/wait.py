"""Whom a run waits for: what the scheduler answers when the loop, or a person, asks why nothing happens."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class WaitFor(StrEnum):
    """Whom a run can be waiting for; each kind may have its own deadline."""

    WORKER = "worker"
    SYNC = "sync"
    GENERATION = "generation"
    VERDICTS = "verdicts"
    LEARNER = "learner"
    PUBLICATION = "publication"
    EVALUATION = "evaluation"
    CHECKPOINT = "checkpoint"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    kind: WaitFor
    what: str  # completes the sentence "the run waits for ..."

    def __str__(self) -> str:
        return self.what


def names(workers: Sequence[str]) -> str:
    """At most four names: a message that lists 4 096 workers helps nobody."""
    if not workers:
        return "no worker"
    shown = ", ".join(workers[:4])
    return shown if len(workers) <= 4 else f"{shown} and {len(workers) - 4} more"
