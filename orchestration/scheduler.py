"""The scheduler: decides what happens next in a run. Events in, actions out; no clock, no Ray, no asyncio.

The run loop, the simulator and the property tests drive this one class. A group is the n responses to one task; P
groups make a step; version v is the policy after v steps.

    StartGroup --> GroupFinished --> ScoreGroup --> VerdictsArrived --+   P oldest groups scored, learner idle
        ^                                                             v
        +---- P slots free ---- WeightsPublished <-- Publish <-- StepTrained <-- Train

No trained token is more than S versions old, by the rule of `admission.py`, which also chooses the tasks.

A publication and an evaluation exclude each other, so an evaluation sees one version only; the publication comes after
it, with the newest weights. `Publish` and `Checkpoint` take the learner's present weights, so they are asked for only
while it is idle.
"""

from collections.abc import Mapping

from orchestration import actions, events
from orchestration.actions import Action, SchedulerState
from orchestration.admission import Admission
from orchestration.errors import SchedulerError
from orchestration.events import Event
from orchestration.fleet import Fleet
from orchestration.group_book import GroupBook, Stage
from orchestration.scheduler_config import SchedulerConfig
from orchestration.wait import Wait, WaitFor, names

JOURNAL = "the journal"  # stands for the worker of a group that an earlier process drew


class Scheduler:
    """One run's decisions. `handle` takes the next event and returns what to start, in that order.

    Example with P = 2, S = 1, no evaluation and one worker with room for all. It joins with version 0: groups 0 to 3
    start, two steps' worth. Group 1 is scored first, then group 0: step 0 trains on 0 and 1. It finishes: version 1 is
    published, and if groups 2 and 3 are scored, step 1 trains beside that. Once the worker has confirmed version 1,
    groups 4 and 5 start.

    `state` is that of the checkpoint a run is resumed from; `drawn` maps a task to the version of its oldest token, for
    every task that is owed and whose responses an earlier process left, none of whose tokens is newer than `state`.
    """

    def __init__(
        self, config: SchedulerConfig, state: SchedulerState | None = None, drawn: Mapping[int, int] | None = None
    ) -> None:
        self.config = config
        resumed = state is not None
        if state is None:
            state = SchedulerState(version=0, evaluated=-1, trained_groups=0, untrained_tasks=(), next_task=0)
        if state.version > config.total_steps:
            raise SchedulerError(
                f"the checkpoint has {state.version} steps and total_steps is {config.total_steps}:"
                " raise total_steps, or start a new run"
            )
        # A resumed learner's weights count as published: every worker that joins is first brought to them.
        self._trained = self._published = state.version
        self._checkpointed = state.version if resumed else -1
        self._evaluated = state.evaluated

        self._admission = Admission(config, state, drawn or {})
        self._book = GroupBook(first=state.trained_groups)
        self._fleet = Fleet(published=self._published)
        self._training: range | None = None
        self._publishing: int | None = None
        self._publishing_to: set[str] = set()
        self._evaluating: int | None = None
        self._evaluation_failures = 0
        self._writing: int | None = None
        self._stopping = False
        self._out: list[Action] = []
        self._handlers = {
            events.WorkerJoined: self._on_worker_joined,
            events.WorkerLost: self._on_worker_lost,
            events.WorkerSynced: self._on_worker_synced,
            events.GroupFinished: self._on_group_finished,
            events.VerdictsArrived: self._on_verdicts_arrived,
            events.GroupRejected: self._on_group_rejected,
            events.GroupFailed: self._on_group_failed,
            events.StepTrained: self._on_step_trained,
            events.WeightsPublished: self._on_weights_published,
            events.EvaluationFinished: self._on_evaluation_finished,
            events.EvaluationFailed: self._on_evaluation_failed,
            events.CheckpointWritten: self._on_checkpoint_written,
            events.StopRequested: self._on_stop_requested,
        }

    def begin(self) -> list[Action]:
        """What can start before anything has happened: nothing, until a worker joins; a finished run stays finished."""
        return self._decide()

    def handle(self, event: Event) -> list[Action]:
        """Take one event; returns the actions to start now, in order. Raises SchedulerError for what cannot be true."""
        self._handlers[type(event)](event)
        return self._decide()

    @property
    def done(self) -> bool:
        """Nothing is left to do: everything trained, published, evaluated and on disk, or stopped and on disk."""
        if self._training is not None or self._writing is not None or self._checkpointed != self._trained:
            return False
        if self._stopping:
            return True
        return (
            self._trained == self._published == self.config.total_steps
            and self._evaluating is None
            and not self._evaluation_is_due()
        )

    @property
    def version(self) -> int:
        """The newest trained version, which is also the number of steps taken."""
        return self._trained

    @property
    def published(self) -> int:
        """The newest version that every worker has confirmed."""
        return self._published

    def is_current(self, group: int, attempt: int) -> bool:
        """False for news of an attempt that has been given up: the loop may drop what came with it."""
        return self._book.find(group, attempt) is not None

    def state(self) -> SchedulerState:
        """What a resumed scheduler needs. It belongs to the weights of `version`: a step in training is not trained."""
        first = self._admission.first_group(self._trained)
        tasks = [self._book[group].task_index for group in range(first, self._book.next)]
        owed, next_task = self._admission.owed
        return SchedulerState(
            version=self._trained,
            evaluated=self._evaluated,
            trained_groups=first,
            untrained_tasks=(*(task for task in tasks if task is not None), *owed),
            next_task=next_task,
        )

    @property
    def waiting_on(self) -> tuple[Wait, ...]:
        """Everybody whose answer is outstanding; each completes "the run waits for ...". Never empty before `done`."""
        waits = []

        def wait(kind: WaitFor, what: str) -> None:
            waits.append(Wait(kind=kind, what=what))

        if self._training is not None:
            wait(WaitFor.LEARNER, f"the learner to finish step {self._trained}")
        if self._writing is not None:
            wait(WaitFor.CHECKPOINT, f"the checkpoint of version {self._writing} to be written")
        if self._stopping:
            return tuple(waits)
        if self._publishing is not None:
            wait(
                WaitFor.PUBLICATION,
                f"version {self._publishing} to be confirmed by {names(sorted(self._publishing_to))}",
            )
        if self._evaluating is not None:
            wait(WaitFor.EVALUATION, f"the evaluation of version {self._evaluating}")
        waits += self._book.waits()
        if unsynced := self._fleet.unsynced:
            wait(WaitFor.SYNC, f"version {self._published} to be confirmed by {names(unsynced)}")
        if not len(self._fleet) and not self.done:
            wait(WaitFor.WORKER, "a rollout worker to join")
        return tuple(waits)

    # What an event changes.

    def _on_worker_joined(self, event: events.WorkerJoined) -> None:
        if event.capacity < 1:
            raise SchedulerError(
                f"worker {event.worker} joined with room for {event.capacity} groups; it needs at least 1"
            )
        self._lose(event.worker)  # it came back under its old name before its loss was noticed
        self._fleet.join(event.worker, event.version, event.capacity)
        self._sync_if_behind(event.worker)

    def _on_worker_lost(self, event: events.WorkerLost) -> None:
        self._lose(event.worker)

    def _on_worker_synced(self, event: events.WorkerSynced) -> None:
        if event.worker in self._fleet:
            self._fleet.confirm(event.worker, event.version)
            self._sync_if_behind(event.worker)

    def _on_group_finished(self, event: events.GroupFinished) -> None:
        group = self._book.find(event.group, event.attempt)
        if group is None or group.stage is not Stage.RUNNING:
            return
        if event.min_version < group.start_version:
            raise SchedulerError(
                f"group {event.group} has tokens of version {event.min_version}, but worker {group.worker} had"
                f" confirmed version {group.start_version} before it started:"
                " the worker does not use the weights it confirms"
            )
        self._release(group.worker, event.group)
        self._book.generated(event.group, event.min_version)
        if not self._stopping:
            may_reject = group.refills < self.config.refills
            self._out.append(actions.ScoreGroup(group=event.group, attempt=event.attempt, may_reject=may_reject))

    def _on_verdicts_arrived(self, event: events.VerdictsArrived) -> None:
        group = self._book.find(event.group, event.attempt)
        if group is not None and group.stage is Stage.SCORING:
            self._book.scored(event.group)

    def _on_group_rejected(self, event: events.GroupRejected) -> None:
        group = self._book.find(event.group, event.attempt)
        if group is None or group.stage is not Stage.SCORING:
            return
        if group.refills == self.config.refills:
            raise SchedulerError(
                f"group {event.group} was rejected once more after {group.refills} refills, which is all it may have"
            )
        self._book.refill(event.group)

    def _on_group_failed(self, event: events.GroupFailed) -> None:
        group = self._book.find(event.group, event.attempt)
        if group is None or group.stage is Stage.SCORED:
            return
        group.failures += 1
        if group.failures > self.config.max_retries:
            raise SchedulerError(
                f"group {event.group} (task {group.task_index}) failed {group.failures} times, the last time because"
                f" {event.reason}: look at this task's reference and verifier, or raise max_retries"
            )
        if group.stage is Stage.RUNNING:
            self._release(group.worker, event.group)
        self._book.again(event.group)

    def _on_step_trained(self, event: events.StepTrained) -> None:
        if self._training is None or event.version != self._trained + 1:
            expected = "no step is in training" if self._training is None else f"step {self._trained} is in training"
            raise SchedulerError(f"the learner reports version {event.version}, but {expected}")
        self._book.forget(self._training)
        self._training = None
        self._trained = event.version

    def _on_weights_published(self, event: events.WeightsPublished) -> None:
        if event.version != self._publishing:
            raise SchedulerError(
                f"version {event.version} is said to be published, but {self._publishing} was asked for"
            )
        self._published = event.version
        behind = self._fleet.publish(event.version, self._publishing_to)
        self._publishing = None
        self._publishing_to = set()
        for worker in behind:
            self._sync_if_behind(worker)

    def _on_evaluation_finished(self, event: events.EvaluationFinished) -> None:
        self._check_evaluation(event.version)
        self._evaluating = None
        self._evaluated = event.version
        self._evaluation_failures = 0

    def _on_evaluation_failed(self, event: events.EvaluationFailed) -> None:
        self._check_evaluation(event.version)
        self._evaluating = None
        self._evaluation_failures += 1
        if self._evaluation_failures > self.config.max_retries:
            raise SchedulerError(
                f"the evaluation of version {event.version} failed {self._evaluation_failures} times,"
                f" the last time because {event.reason}"
            )

    def _on_checkpoint_written(self, event: events.CheckpointWritten) -> None:
        if event.version != self._writing:
            raise SchedulerError(
                f"a checkpoint of version {event.version} was written, but {self._writing} was asked for"
            )
        self._writing = None
        self._checkpointed = event.version

    def _on_stop_requested(self, event: events.StopRequested) -> None:
        self._stopping = True

    # What follows from it.

    def _decide(self) -> list[Action]:
        self._write_checkpoint_if_due()
        if not self._stopping:
            self._evaluate_if_due()  # before publishing: the evaluation is of the version that the workers hold now
            self._publish_if_due()
            self._train_if_ready()
            self._start_groups()
        out, self._out = self._out, []
        return out

    def _write_checkpoint_if_due(self) -> None:
        if self._training is not None or self._writing is not None or self._checkpointed == self._trained:
            return
        every = self.config.checkpoint_every
        last = max(self._checkpointed, 0)
        is_end = self._stopping or self._trained == self.config.total_steps
        if is_end or (every and self._trained // every > last // every):
            self._writing = self._trained
            self._out.append(actions.Checkpoint(version=self._trained, state=self.state()))

    def _evaluation_is_due(self) -> bool:
        config, version, last = self.config, self._published, self._evaluated
        if version == last:
            return False
        if self._start_is_gated or (config.eval_at_end and version == config.total_steps):
            return True
        return bool(config.eval_every) and version // config.eval_every > max(last, 0) // config.eval_every

    @property
    def _start_is_gated(self) -> bool:
        return self.config.eval_at_start and self._evaluated < 0

    def _evaluate_if_due(self) -> None:
        waits = self.config.take_turns and self._training is not None
        if waits or self._evaluating is not None or self._publishing is not None or not self._evaluation_is_due():
            return
        if workers := self._fleet.synced:
            self._evaluating = self._published
            self._out.append(actions.Evaluate(version=self._published, workers=workers))

    def _publish_if_due(self) -> None:
        if self._training is not None or self._publishing is not None or self._evaluating is not None:
            return
        unpublished = self._trained - self._published
        is_end = self._trained == self.config.total_steps
        if unpublished >= self.config.publish_every or (is_end and unpublished):
            workers = self._fleet.synced  # the others are being synchronised and get this version afterwards
            self._publishing = self._trained
            self._publishing_to = set(workers)
            self._out.append(actions.Publish(version=self._trained, workers=workers))

    def _train_if_ready(self) -> None:
        waits = self.config.take_turns and self._evaluating is not None
        if waits or self._training is not None or self._trained == self.config.total_steps:
            return
        first = self._admission.first_group(self._trained)
        if self._book.scored_upto - first < self.config.groups_per_step:
            return
        step = range(first, first + self.config.groups_per_step)
        oldest = min(self._book[group].min_version for group in step)
        if self._trained - oldest > self.config.max_staleness:
            raise SchedulerError(
                f"step {self._trained} would train tokens of version {oldest}, more than max_staleness"
                f" {self.config.max_staleness} versions old: the admission rule is broken"
            )
        self._training = step
        self._out.append(actions.Train(step=self._trained, groups=tuple(step)))

    def _start_groups(self) -> None:
        if self._start_is_gated:
            return
        limit = self._admission.limit(self._published)
        while (number := self._book.next_to_start) < limit:
            wants_task = self._book.wants_task(number)
            if wants_task and (oldest := self._admission.leftover(number)) is not None:
                self._take_up(number, oldest)
                continue
            worker = self._fleet.place(number)
            if worker is None:
                return
            if wants_task:
                self._book.give(number, self._admission.next_task())
            group = self._book.start(number, worker, self._published)
            self._out.append(
                actions.StartGroup(
                    group=number,
                    task_index=group.task_index,
                    version=self._published,
                    worker=worker,
                    attempt=group.attempt,
                )
            )

    def _take_up(self, number: int, oldest: int) -> None:
        """Start with the responses that an earlier process left to the next owed task."""
        self._book.give(number, self._admission.next_task())
        group = self._book.start(number, JOURNAL, oldest)
        self._out.append(
            actions.TakeUpGroup(
                group=number, task_index=group.task_index, version=self._published, attempt=group.attempt
            )
        )

    def _lose(self, worker: str) -> None:
        if worker not in self._fleet:
            return
        for number in self._fleet.lose(worker):
            self._book.again(number)
        self._publishing_to.discard(worker)

    def _release(self, worker: str, group: int) -> None:
        if worker != JOURNAL:
            self._fleet.release(worker, group)

    def _sync_if_behind(self, worker: str) -> None:
        # One that already holds the version being published has nothing to wait for but its confirmation by the others.
        if self._fleet.version(worker) not in (self._published, self._publishing) and not self._stopping:
            self._out.append(actions.SyncWorker(worker=worker, version=self._published))

    def _check_evaluation(self, version: int) -> None:
        if version != self._evaluating:
            raise SchedulerError(f"an evaluation of version {version} ended, but {self._evaluating} is being evaluated")
