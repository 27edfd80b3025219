"""One simulated run: the real scheduler, and a world that answers its actions after the seconds that the rates say.

    StartGroup  --> Engine.add ...... its last response ends --> GroupFinished
    ScoreGroup  --> verifiers, one line for all -------------> VerdictsArrived or, at random, GroupRejected
    Train       --> learner, one thing at a time ------------> StepTrained
    Publish     --> learner (snapshot), then all engines -----> WeightsPublished
    Evaluate    --> held-out groups on the engines, before all others --> EvaluationFinished
    Checkpoint  --> disk ------------------------------------> CheckpointWritten
    (a worker is lost) WorkerLost --restart--> WorkerJoined --> SyncWorker --> WorkerSynced

Time is a heap of what happens next. The clock starts when the workers are there and the evaluation before training,
which nothing runs beside, is over.
"""

import heapq
import itertools
import random
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orchestration import actions, events
from orchestration.actions import Action
from orchestration.errors import StallError
from orchestration.events import Event
from orchestration.planner.engine import Engine
from orchestration.planner.rates import Rates
from orchestration.scheduler import Scheduler
from orchestration.scheduler_config import SchedulerConfig

HOUR_S = 3600.0
FIRST_EVALUATION_GROUP = -(2**40)  # and rising, always below 0: engines take lower numbers first


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One run to simulate."""

    pacing: SchedulerConfig
    rates: Rates
    workers: int
    ranks: int
    group_size: int
    longest: int  # tokens: task.max_tokens
    running: int  # responses that an engine decodes at once
    capacity: int  # groups that a worker takes
    drafts: int = 0  # tokens drafted ahead; 0 is no speculation
    evaluated_tasks: int = 0
    evaluated_samples: int = 0  # a task, at T = 1; one more is greedy
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTaken:
    """Where the run stands when a step is trained. Seconds and tokens are since the start."""

    at_s: float
    tokens_drawn: float
    rollout_busy_s: float  # of all engines together
    learner_busy_s: float
    verifiers_busy_s: float  # 0 where their speed has no limit
    oldest: int  # of its tokens, in versions behind the learner
    mean_age: float  # of the oldest token of each of its groups


class Simulation:
    """`run` it once; `steps` and `trained_tokens` then say what came of it."""

    def __init__(self, setting: Setting, scheduler: Callable[[SchedulerConfig], Scheduler] = Scheduler) -> None:
        self.setting = setting
        self.scheduler = scheduler(setting.pacing)
        self.now = 0.0
        self.events = 0  # that the scheduler was told
        self.lost_workers = 0
        self.steps: list[StepTaken] = []
        self.trained_tokens = array("q")  # of each group, in order of training
        rates = setting.rates
        self._pace = rates.pace(setting.running, setting.drafts)
        self._lengths = rates.lengths.groups(setting.group_size, setting.longest, setting.seed)
        self._heldout = rates.lengths.groups(setting.evaluated_samples + 1, setting.longest, setting.seed + 1)
        self._chance = random.Random(setting.seed)
        self._soon: list[tuple[float, int, Callable, tuple]] = []
        self._order = itertools.count()
        self._engines: dict[str, Engine] = {}
        self._names = (f"rollout-{number}" for number in itertools.count())
        self._tokens: dict[int, int] = {}  # of groups on their way
        self._attempts: dict[int, int] = {}
        self._oldest: dict[int, int] = {}
        self._verifiers_free = self._learner_free = 0.0
        self._learner_busy_s = self._verifiers_busy_s = self._gone_busy_s = self._gone_tokens = 0.0
        self._evaluating: set[int] = set()  # held-out groups that are not judged yet
        self._evaluated_version = -1
        self._evaluation_groups = itertools.count(FIRST_EVALUATION_GROUP)
        self._handlers = {
            actions.StartGroup: self._start_group,
            actions.ScoreGroup: self._score_group,
            actions.Train: self._train,
            actions.Publish: self._publish,
            actions.SyncWorker: self._sync_worker,
            actions.Evaluate: self._evaluate,
            actions.Checkpoint: self._checkpoint,
        }

    def run(self) -> None:
        """From the first group to the end. Raises SchedulerError as the run itself would."""
        self._start(self.scheduler.begin())
        for _ in range(self.setting.workers):
            self._join(version=0)
        while not self.scheduler.done:
            if not self._soon:
                waits = "; ".join(str(wait) for wait in self.scheduler.waiting_on)
                raise StallError(f"the simulation stands still at {self.now:.1f} s and waits for {waits}")
            at, _, what, arguments = heapq.heappop(self._soon)
            self.now = max(self.now, at)
            what(*arguments)

    # What the scheduler asks for.

    def _start(self, todo: Sequence[Action]) -> None:
        woken = {}
        for action in todo:
            if type(action) is actions.StartGroup:  # a publication starts many on the same engine
                engine = self._start_group(action)
                woken[engine.name] = engine
            else:
                self._handlers[type(action)](action)
        for engine in woken.values():
            self._look_ahead(engine)

    def _start_group(self, action: actions.StartGroup) -> Engine:
        engine = self._engines[action.worker]
        lengths = next(self._lengths)
        self._tokens[action.group] = sum(lengths)
        self._attempts[action.group] = action.attempt
        engine.add(action.group, lengths, self.now)
        return engine

    def _score_group(self, action: actions.ScoreGroup) -> None:
        rejected = action.may_reject and self._chance.random() < self.setting.rates.rejected
        verdict = events.GroupRejected if rejected else events.VerdictsArrived
        judged = verdict(group=action.group, attempt=action.attempt)
        self._tell_at(self._verifiers_for(self.setting.group_size), judged)

    def _train(self, action: actions.Train) -> None:
        trained = [self._tokens.pop(group) for group in action.groups]
        self.trained_tokens.extend(trained)
        ages = [action.step - self._oldest.pop(group) for group in action.groups]
        for group in action.groups:
            del self._attempts[group]
        step_s = self.setting.rates.learner_step_s(sum(trained), self.setting.ranks)
        self._learner_busy_s += step_s
        self._at(self._learner_for(step_s), self._step_trained, action.step, ages)

    def _step_trained(self, step: int, ages: list[int]) -> None:
        for engine in self._engines.values():
            engine.advance(self.now)
        self.steps.append(
            StepTaken(
                at_s=self.now,
                tokens_drawn=self._gone_tokens + sum(engine.tokens for engine in self._engines.values()),
                rollout_busy_s=self._gone_busy_s + sum(engine.busy_s for engine in self._engines.values()),
                learner_busy_s=self._learner_busy_s,
                verifiers_busy_s=self._verifiers_busy_s,
                oldest=max(ages),
                mean_age=sum(ages) / len(ages),
            )
        )
        self._tell(events.StepTrained(version=step + 1))

    def _publish(self, action: actions.Publish) -> None:
        rates = self.setting.rates
        self._learner_busy_s += rates.snapshot_s
        told = events.WeightsPublished(version=action.version)
        self._at(self._learner_for(rates.snapshot_s) + rates.travel_s, self._bring, action.workers, told)

    def _sync_worker(self, action: actions.SyncWorker) -> None:
        told = events.WorkerSynced(worker=action.worker, version=action.version)
        self._at(self.now + self.setting.rates.travel_s, self._bring, (action.worker,), told)

    def _bring(self, workers: Sequence[str], told: events.WeightsPublished | events.WorkerSynced) -> None:
        """The weights are there; the scheduler is told when the last of the engines goes on with them."""
        confirmed = self.now
        for name in workers:
            if (engine := self._engines.get(name)) is not None:
                confirmed = max(confirmed, engine.update(told.version, self.now, self.setting.rates.pause_s))
                self._look_ahead(engine)
        self._tell_at(confirmed, told)

    def _evaluate(self, action: actions.Evaluate) -> None:
        self._evaluated_version = action.version
        if action.version == 0 or not self.setting.evaluated_tasks:
            self._tell_at(self.now, events.EvaluationFinished(version=action.version))
            return
        self._evaluating = {next(self._evaluation_groups) for _ in range(self.setting.evaluated_tasks)}
        for group in sorted(self._evaluating):
            engine = self._engines[action.workers[group % len(action.workers)]]
            engine.add(group, next(self._heldout), self.now)
        for name in action.workers:
            self._look_ahead(self._engines[name])

    def _checkpoint(self, action: actions.Checkpoint) -> None:
        written = self.now + self.setting.rates.checkpoint_s  # beside training; to copy the weights takes little
        self._tell_at(written, events.CheckpointWritten(version=action.version))

    # What happens by itself.

    def _join(self, version: int) -> None:
        name = next(self._names)
        rates = self.setting.rates
        self._engines[name] = Engine(name, self._pace, version, self.now, rates.turnover_s, rates.aside_s)
        if (hours := rates.hours_between_losses) is not None:
            self._at(self.now + self._chance.expovariate(1 / (hours * HOUR_S)), self._lose, name)
        self._tell(events.WorkerJoined(worker=name, version=version, capacity=self.setting.capacity))

    def _lose(self, name: str) -> None:
        engine = self._engines[name]
        engine.advance(self.now)
        del self._engines[name]
        engine.epoch += 1
        self.lost_workers += 1
        self._gone_busy_s += engine.busy_s
        self._gone_tokens += engine.tokens
        self._at(self.now + self.setting.rates.restart_s, self._join, -1)
        self._tell(events.WorkerLost(worker=name))
        if self._evaluating.intersection(engine.groups):
            self._evaluating = set()
            self._tell(events.EvaluationFailed(version=self._evaluated_version, reason=f"{name} was lost"))

    def _look_ahead(self, engine: Engine) -> None:
        if (finish := engine.look_ahead()) != float("inf"):
            self._at(finish, self._group_ends, engine, engine.epoch)

    def _group_ends(self, engine: Engine, epoch: int) -> None:
        if epoch != engine.epoch:
            return  # something happened since
        group, oldest = engine.take_finished()
        if group >= 0:
            self._oldest[group] = oldest
            self._tell_at(
                self.now + self.setting.rates.overhead_s,
                events.GroupFinished(group=group, attempt=self._attempts[group], min_version=oldest),
            )
        elif group in self._evaluating:
            self._at(self._verifiers_for(self.setting.evaluated_samples + 1), self._heldout_judged, group)
        self._look_ahead(engine)

    def _heldout_judged(self, group: int) -> None:
        if group in self._evaluating:  # otherwise the evaluation has failed meanwhile
            self._evaluating.remove(group)
            if not self._evaluating:
                self._tell(events.EvaluationFinished(version=self._evaluated_version))

    # Time.

    def _learner_for(self, seconds: float) -> float:
        """The learner does one thing after the other; when it will have done this."""
        self._learner_free = max(self._learner_free, self.now) + seconds
        return self._learner_free

    def _verifiers_for(self, responses: int) -> float:
        """The verifiers take groups in order of arrival, all of them one group at a time; when this one is judged."""
        rates = self.setting.rates
        if rates.verdicts_per_s is not None:
            judging_s = responses / rates.verdicts_per_s
            self._verifiers_busy_s += judging_s
            self._verifiers_free = max(self._verifiers_free, self.now) + judging_s
        return max(self._verifiers_free, self.now) + rates.verdict_latency_s

    def _at(self, when: float, what: Callable, *arguments: object) -> None:
        heapq.heappush(self._soon, (when, next(self._order), what, arguments))

    def _tell_at(self, when: float, event: Event) -> None:
        heapq.heappush(self._soon, (when, next(self._order), self._tell, (event,)))

    def _tell(self, event: Event) -> None:
        self.events += 1
        self._start(self.scheduler.handle(event))
