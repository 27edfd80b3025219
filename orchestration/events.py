"""What the scheduler is told: one small record per thing that happened, with ids and versions but never a payload.

Rollouts, verdicts and weights stay with the run loop. An event is plain data, so the journal can write it down before
it is handled, the simulator can make it up, and a test can shuffle it.

`attempt` is copied from the `StartGroup` that the news is about: when a lost worker's group has been started again,
late news of the earlier attempt is recognised and ignored.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerJoined:
    """A rollout worker is up, holds the weights of `version`, and takes `capacity` groups at once."""

    worker: str
    version: int
    capacity: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLost:
    """A rollout worker is gone, and with it the groups that it was generating. Reporting it twice does no harm."""

    worker: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSynced:
    """The answer to `SyncWorker`: this worker has confirmed the weights of `version`."""

    worker: str
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFinished:
    """All responses of a group are generated. `min_version` is the oldest version that drew one of its tokens."""

    group: int
    attempt: int
    min_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictsArrived:
    """A group is scored and at least one of its verdicts can be trained on."""

    group: int
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRejected:
    """A group is scored, and all its responses got the same reward: it takes another task (`ScoreGroup.may_reject`)."""

    group: int
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFailed:
    """A group cannot be used: generation failed, or no verdict can be trained on. `reason` is for a person."""

    group: int
    attempt: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTrained:
    """The learner has finished the step that makes `version`."""

    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsPublished:
    """Every worker named in `Publish(version)` that is still there has confirmed version and checksum."""

    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationFinished:
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationFailed:
    """An evaluation could not be finished, say because every worker that ran it was lost; it is tried again."""

    version: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointWritten:
    """The checkpoint of `version` is complete on disk."""

    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRequested:
    """Somebody asks the run to end early: finish the step in training, write a checkpoint, stop."""


Event = (
    WorkerJoined
    | WorkerLost
    | WorkerSynced
    | GroupFinished
    | VerdictsArrived
    | GroupRejected
    | GroupFailed
    | StepTrained
    | WeightsPublished
    | EvaluationFinished
    | EvaluationFailed
    | CheckpointWritten
    | StopRequested
)
