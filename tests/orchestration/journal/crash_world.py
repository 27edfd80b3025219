"""A run of scheduler and journal in a small world that can crash anywhere: what is on disk survives, nothing else does.

Weights are a number that depends on everything trained so far, and a token says which weights drew it, so that a draw
of weights that a crash has taken can be told from one of the weights that got the same version later.
"""

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from orchestration import actions, events
from orchestration.actions import SchedulerState
from orchestration.journal import Journal
from orchestration.scheduler import Scheduler, SchedulerConfig
from rollout.messages import FinishReason, Rollout, VersionSpan
from tests.orchestration.journal.records import verdict

TOKENS = 2


class Crash(Exception):
    """The process is gone."""


@dataclass
class Disk:
    """What a crash leaves: the journal's file, and the newest checkpoint with the weights of all its ancestors."""

    path: Path
    state: SchedulerState | None = None
    ancestors: tuple[int, ...] = (1,)  # the weights of version 0, 1, ...
    drawn: list[int] = field(default_factory=list)  # tasks, each time that one is drawn; kept for the test alone


class Process:
    """One life of the driver. `crash_at(moment)` says whether it dies there; a moment passes twice per event.

    `noise`: lives of other seeds that train the same get other weights, as with sums in another order.
    """

    def __init__(
        self, config: SchedulerConfig, disk: Disk, crash_at: Callable[[int], bool], seed: int, noise: bool = True
    ) -> None:
        self.disk = disk
        self.crash_at = crash_at
        self.moment = 0
        self.noise = seed if noise else 0
        self.rng = random.Random(seed)  # in which order answers come
        self.line = list(disk.ancestors)
        self.published = len(self.line) - 1
        self.journal = Journal.open(disk.path, keep_rollouts=1)
        self.tasks: dict[int, int] = {}  # group -> task
        self.draws: dict[int, list[Rollout]] = {}
        self.judged: set[int] = set()
        try:
            self.journal.resume(self.published)
            left = {task: one.oldest_version for task, one in self.journal.leftovers().items()}
            self.scheduler = Scheduler(config, disk.state, left)
            self.answers: list[Callable[[], events.Event]] = []
            self._start(self.scheduler.begin())
            version = self.published
            self.answers.append(lambda: events.WorkerJoined(worker="a", version=version, capacity=5))
            while not self.scheduler.done:
                self._live()
        finally:
            self.journal.close()  # as the kernel would

    def _live(self) -> None:
        event = self.answers.pop(self.rng.randrange(len(self.answers)))()
        self._moment()
        self.journal.record(event)
        self._moment()
        self._start(self.scheduler.handle(event))

    def _moment(self) -> None:
        self.moment += 1
        if self.crash_at(self.moment):
            raise Crash

    def _start(self, todo: list[actions.Action]) -> None:
        self.journal.start(todo)
        for action in todo:
            self.answers.append(getattr(self, f"_{type(action).__name__}")(action))

    def _StartGroup(self, action: actions.StartGroup) -> Callable[[], events.Event]:
        began = self.published
        self.tasks[action.group] = action.task_index

        def finish() -> events.Event:
            spans = (began, self.published)  # weights may have changed under it
            self.draws[action.group] = [self._rollout(action, index, spans) for index in range(2)]
            self.disk.drawn.append(action.task_index)
            oldest = self.journal.add_draw(
                group=action.group,
                attempt=action.attempt,
                task_index=action.task_index,
                task_id=str(action.task_index),
                prompt="p",
                rollouts=self.draws[action.group],
            )
            return events.GroupFinished(group=action.group, attempt=action.attempt, min_version=oldest)

        return finish

    def _rollout(self, action: actions.StartGroup, index: int, versions: tuple[int, int]) -> Rollout:
        ones = np.ones(TOKENS, np.float32)
        spans = (VersionSpan(version=version, start=i, end=i + 1) for i, version in enumerate(versions))
        return Rollout(
            group_id=f"{action.group}.{action.attempt}",
            index=index,
            prompt_ids=(action.task_index,),
            response_ids=np.array([self.line[version] for version in versions], np.int32),  # who drew it
            sampler_logprobs=-ones,
            temperatures=ones,
            entropies=ones,
            spans=tuple(spans),
            text="",
            finish_reason=FinishReason.STOP,
            drafted_tokens=0,
            accepted_histogram=(),
            seconds=0.0,
        )

    def _TakeUpGroup(self, action: actions.TakeUpGroup) -> Callable[[], events.Event]:
        draw = self.journal.draw(action.task_index)
        self.tasks[action.group] = action.task_index
        self.draws[action.group] = list(draw.rollouts)
        if draw.verdicts:
            self.judged.add(action.group)
        return lambda: events.GroupFinished(group=action.group, attempt=action.attempt, min_version=draw.oldest_version)

    def _ScoreGroup(self, action: actions.ScoreGroup) -> Callable[[], events.Event]:
        def finish() -> events.Event:
            self.journal.add_verdicts(
                group=action.group, attempt=action.attempt, verdicts=[verdict()] * 2, reward_mean=1.0
            )
            if action.may_reject and self.tasks[action.group] % 3 == 1:
                return events.GroupRejected(group=action.group, attempt=action.attempt)
            return events.VerdictsArrived(group=action.group, attempt=action.attempt)

        return finish

    def _Train(self, action: actions.Train) -> Callable[[], events.Event]:
        for group in action.groups:
            for rollout in self.draws[group]:
                assert rollout.prompt_ids == (self.tasks[group],)
                drawn_by = [self.line[version] for version in rollout.versions]
                assert rollout.response_ids.tolist() == drawn_by, "tokens of weights that a crash has taken"

        def finish() -> events.Event:
            told = [
                (self.tasks[group], [one.response_ids.tolist() for one in self.draws[group]]) for group in action.groups
            ]
            digest = hashlib.blake2b(repr((self.line[-1], told, self.noise)).encode(), digest_size=3).digest()
            self.line.append(int.from_bytes(digest))
            return events.StepTrained(version=action.step + 1)

        return finish

    def _Publish(self, action: actions.Publish) -> Callable[[], events.Event]:
        def finish() -> events.Event:
            self.published = action.version
            return events.WeightsPublished(version=action.version)

        return finish

    def _SyncWorker(self, action: actions.SyncWorker) -> Callable[[], events.Event]:
        return lambda: events.WorkerSynced(worker=action.worker, version=action.version)

    def _Evaluate(self, action: actions.Evaluate) -> Callable[[], events.Event]:
        return lambda: events.EvaluationFinished(version=action.version)

    def _Checkpoint(self, action: actions.Checkpoint) -> Callable[[], events.Event]:
        ancestors = tuple(self.line)

        def finish() -> events.Event:
            self.disk.state, self.disk.ancestors = action.state, ancestors
            return events.CheckpointWritten(version=action.version)

        return finish
