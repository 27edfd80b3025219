"""What the scheduler asks for: one small record per thing to start. The run loop has one method for each.

Actions are started in the order of the list and answered by an event later. `Checkpoint`, `Publish` and `Train` go to
the learner, which takes them one after the other: a snapshot asked for before a `Train` of the same list is of the
weights before that step.

    action        answered by
    StartGroup    GroupFinished, GroupFailed or WorkerLost
    TakeUpGroup   GroupFinished
    ScoreGroup    VerdictsArrived, GroupFailed or, if it may be, GroupRejected
    Train         StepTrained
    Publish       WeightsPublished
    SyncWorker    WorkerSynced or WorkerLost
    Evaluate      EvaluationFinished or EvaluationFailed
    Checkpoint    CheckpointWritten
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerState:
    """What a checkpoint keeps of the scheduler: where training stands, and which tasks it still owes.

    `untrained_tasks` were admitted and not trained, oldest first: a resumed run starts them again before any new task.
    """

    version: int  # steps trained
    evaluated: int  # newest version whose evaluation is finished, -1 before the first
    trained_groups: int  # over all steps so far; the next group trained gets this number
    untrained_tasks: tuple[int, ...]
    next_task: int  # the first task index never admitted

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "untrained_tasks": list(self.untrained_tasks)}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Self:
        return cls(**{**saved, "untrained_tasks": tuple(saved["untrained_tasks"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class StartGroup:
    """Generate the responses to task `task_index` on `worker`, which has confirmed at least `version`.

    The first attempt admits the group; later ones repeat it after a failure or the loss of its worker, or take the next
    task after a rejection.
    """

    group: int
    task_index: int
    version: int
    worker: str
    attempt: int  # 1 for the first


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeUpGroup:
    """Admit a group with the responses that an earlier process of this run drew to `task_index` and wrote down."""

    group: int
    task_index: int
    version: int  # published now
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreGroup:
    """Send the responses of this attempt to the verifiers; with `may_reject`, another task may take their place."""

    group: int
    attempt: int
    may_reject: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Train:
    """Take the step that leads from version `step` to `step + 1`, on these groups in order of admission."""

    step: int
    groups: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    """Put the learner's present weights, `version`, into these workers; with none, only keep the snapshot."""

    version: int
    workers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncWorker:
    """Put `version`, the last published one, into one worker that does not hold it. Nobody else is disturbed."""

    worker: str
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluate:
    """Run the held-out tasks on these workers. They hold `version`; nothing is published until the answer is there."""

    version: int
    workers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Write the learner's present state, `version`, and `state`, which belongs to exactly that version."""

    version: int
    state: SchedulerState


Action = StartGroup | TakeUpGroup | ScoreGroup | Train | Publish | SyncWorker | Evaluate | Checkpoint
