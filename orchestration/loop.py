"""The run loop: the one file that sees rollout, reward and learner together, and the one place that waits.

    tasks --StartGroup--> rollout --ScoreGroup--> reward --Train--> learner --Publish--> rollout
      ^                                                                                    |
      +------ a slot frees only when every engine has confirmed the new version -----------+

    event in (journalled first)   what the scheduler weighs        action out (one method below)
    WorkerJoined / WorkerLost     free slots; groups to run again  StartGroup, TakeUpGroup, SyncWorker
    GroupFinished                 -                                ScoreGroup
    VerdictsArrived               are the P oldest groups scored?  Train
    GroupRejected                 its number takes another task    StartGroup
    StepTrained                   publish, checkpoint, eval due?   Publish, Checkpoint, Evaluate
    WeightsPublished              P slots are free                 StartGroup

The bound on staleness is the scheduler's (`scheduler.py`); `train` asserts it once more on the versions of the tokens.
An action method starts work and returns; the result comes back as an event, so only `run` waits.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learner.messages import Publication, StepReport
from orchestration import actions, events
from orchestration.buffer import Group, Rejected, Rewards, batch_metrics, entropy_stats, train_batch
from orchestration.checkpoint_store import CheckpointStore
from orchestration.config import RunPlan
from orchestration.errors import SchedulerError, StallError, WorkerFailure
from orchestration.evaluation import EvaluationResult, evaluate
from orchestration.feedback import teacher
from orchestration.journal import Journal
from orchestration.pace import worker_capacity
from orchestration.scheduler import Scheduler
from orchestration.self_check import coarser, self_check
from orchestration.services import RolloutService, Services, whole_group
from orchestration.tasks.task import Task
from orchestration.telemetry import Telemetry
from orchestration.workers import Workers
from rollout.draw.control import controller_of
from rollout.messages import GroupRequest
from rollout.strategies import SECOND_TEMPERATURE

log = logging.getLogger(__name__)

TEMPERATURE_STATE = "temperature.json"  # in a checkpoint: what the temperature controller has learned
SECOND_STATE = "second_temperature.json"  # the same of the strategy's own, if it has one
JUDGED_BY = "eval/pass@1"  # the best checkpoints are those with the highest
STACKS_APPEAR_S = 1.0  # time for the actors to write their stacks after a stall


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """How the run ended: `version` steps are trained, `completed` says whether those are all it was asked for."""

    version: int
    completed: bool


class RunLoop:
    """One run, from the services being up to the last checkpoint. Raises whatever stops it; nothing is swallowed."""

    def __init__(
        self,
        plan: RunPlan,
        scheduler: Scheduler,
        services: Services,
        encode: Callable[[Task], tuple[int, ...]],
        journal: Journal,
        checkpoints: CheckpointStore,
        telemetry: Telemetry,
    ) -> None:
        self.plan = plan
        self.scheduler = scheduler
        self.services = services
        self.encode = encode
        self.journal = journal
        self.checkpoints = checkpoints
        self.telemetry = telemetry
        self.rewards = Rewards(config=plan.reward, max_tokens=plan.task.max_tokens)
        self.teach = teacher(plan.feedback, encode) if plan.algorithm.teacher else None
        self.rejected = Rejected() if plan.algorithm.refill else None
        self.temperature = controller_of(plan.temperature)
        self.controllers = {TEMPERATURE_STATE: self.temperature}
        if SECOND_TEMPERATURE in plan.strategy.needs:
            self.controllers[SECOND_STATE] = controller_of(plan.strategy.second)
        self.heldout = plan.task.heldout_tasks(plan.eval.tasks)
        self.events: asyncio.Queue[events.Event | BaseException] = asyncio.Queue()
        self.groups: dict[int, Group] = {}
        self.workers = Workers(services, self._worker_lost)
        self.published: tuple[Publication, Any] | None = None  # the newest snapshot, for workers that join late
        self.started_from = -1  # the version this process began with
        self._running: set[asyncio.Task] = set()

    async def run(self) -> RunReport:
        """Next event -> journal -> scheduler -> start its actions, until it is done or a deadline expires."""
        self.published = await self.services.learner.snapshot()
        self.started_from = self.published[0].version
        for _ in range(self.plan.rollout.workers):
            self._spawn(self._start_worker())
        try:
            self.start(self.scheduler.begin())
            while not self.scheduler.done:
                event = await self._next_event()
                self.journal.record(event)
                self.start(self.scheduler.handle(event))
        finally:
            await self._cancel_all()
        return RunReport(version=self.scheduler.version, completed=self.scheduler.version == self.plan.run.steps)

    def restore(self, checkpoint: Path) -> None:
        """Take up the temperature controllers where the checkpoint left them; the scheduler and learner do the same."""
        for name, controller in self.controllers.items():
            if (checkpoint / name).is_file():  # checkpoints of older versions have none
                controller.load(json.loads((checkpoint / name).read_text()))

    def stop(self) -> None:
        """Ask the run to end early: it finishes the step in training, writes a checkpoint and returns."""
        self.events.put_nowait(events.StopRequested())

    def start(self, todo: list[actions.Action]) -> None:
        if todo:
            self.journal.start(todo)
        for action in todo:
            match action:
                case actions.StartGroup():
                    self._spawn(self.start_group(action))
                case actions.TakeUpGroup():
                    self._spawn(self.take_up_group(action))
                case actions.ScoreGroup():
                    self._spawn(self.score_group(action))
                case actions.Train():
                    self._spawn(self.train(action))
                case actions.Publish():
                    self._spawn(self.publish(action))
                case actions.SyncWorker():
                    self._spawn(self.sync_worker(action))
                case actions.Evaluate():
                    self._spawn(self.evaluate(action))
                case actions.Checkpoint():
                    self._spawn(self.checkpoint(action))

    # One method per action. Each ends by putting its event into the queue.

    async def start_group(self, action: actions.StartGroup) -> None:
        """Draw the n responses to one task on the worker that the scheduler chose."""
        worker = self.workers.get(action.worker)
        if worker is None:  # it died since; the WorkerLost on its way starts this group again
            return
        task = self.plan.task.train_task(action.task_index, self.plan.seed)
        self.telemetry.group_started()
        self.groups[action.group] = Group(task)
        request = GroupRequest(
            group_id=f"{action.group}.{action.attempt}",
            prompt_ids=self.encode(task),
            n=self.plan.run.group_size,
            max_tokens=self.plan.task.max_tokens,
            temperature=self.temperature.policy(),
            truncation=self.plan.truncation,
            priority=action.group,  # the oldest first
            trained=True,
            second_temperature=self.controllers[SECOND_STATE].policy() if SECOND_STATE in self.controllers else None,
        )
        try:
            rollouts = await whole_group(worker.generate(request))
        except WorkerFailure as failure:
            self.workers.failed(failure)
            return
        if not self.scheduler.is_current(action.group, action.attempt):
            return
        self.groups[action.group].rollouts = rollouts
        oldest = await asyncio.to_thread(  # long responses are megabytes, which the loop should not wait for
            self.journal.add_draw,
            group=action.group,
            attempt=action.attempt,
            task_index=action.task_index,
            task_id=task.id,
            prompt=task.prompt,
            rollouts=rollouts,
        )
        self._post(events.GroupFinished(group=action.group, attempt=action.attempt, min_version=oldest))

    async def take_up_group(self, action: actions.TakeUpGroup) -> None:
        """Go on with the responses that an earlier process of this run drew, and with their verdicts if it got any."""
        task = self.plan.task.train_task(action.task_index, self.plan.seed)
        self.telemetry.group_started()
        draw = await asyncio.to_thread(self.journal.draw, action.task_index)
        self.groups[action.group] = Group(task, draw.rollouts, draw.verdicts)
        oldest = draw.oldest_version
        self._post(events.GroupFinished(group=action.group, attempt=action.attempt, min_version=oldest))

    async def score_group(self, action: actions.ScoreGroup) -> None:
        """Send a group's responses to the verifiers; a timeout is a status, and a reward only where the run says so."""
        group = self.groups[action.group]
        if not group.verdicts:  # a group that was taken up may have them
            group.verdicts = await self.services.verifier.verify(group.requests(action.group))
        judged = [reward for verdict in group.verdicts if (reward := self.rewards.raw(verdict)) is not None]
        if judged:
            self.journal.add_verdicts(
                group=action.group,
                attempt=action.attempt,
                verdicts=group.verdicts,
                reward_mean=sum(judged) / len(judged),
            )
            if action.may_reject and max(judged) == min(judged):  # as MixedGroupsOnly would drop it
                self.rejected.rewards.append(judged[0])
                self._post(events.GroupRejected(group=action.group, attempt=action.attempt))
            else:
                self._post(events.VerdictsArrived(group=action.group, attempt=action.attempt))
        else:
            first = group.verdicts[0]
            reason = f"no response could be judged ({first.status}: {first.detail})"
            self._post(events.GroupFailed(group=action.group, attempt=action.attempt, reason=reason))

    async def train(self, action: actions.Train) -> None:
        """Take one learner step on whole groups, in order of admission."""
        groups = {number: self.groups.pop(number) for number in action.groups}
        batch = train_batch(action.step, groups, self.rewards, self.teach)
        versions = (sample.versions[sample.trained_places] for sample in batch.samples)
        oldest = min((int(drawn.min()) for drawn in versions if len(drawn)), default=action.step)
        if action.step - oldest > self.plan.run.max_staleness:
            raise SchedulerError(
                f"step {action.step} was given a token of version {oldest}, which is older than"
                f" run.max_staleness={self.plan.run.max_staleness} allows"
            )
        if self.plan.rollout.sleep:  # the publication that follows wakes them
            await self.workers.sleep()
        report: StepReport = await self.services.learner.train(batch)
        for controller in self.controllers.values():
            if (stats := entropy_stats(batch, controller.quantile)) is not None:
                controller.observe(stats)
        metrics = batch_metrics(groups, self.rewards) | (self.rejected.metrics() if self.rejected else {})
        self.telemetry.step(report, metrics, await self.workers.metrics())
        self._post(events.StepTrained(version=report.version))

    async def publish(self, action: actions.Publish) -> None:
        """Put version v into the running engines; done when each has confirmed version and checksum."""
        self.telemetry.snapshot_started()
        self.published = await self.services.learner.snapshot()
        version = self.published[0].version
        if version != action.version:
            raise SchedulerError(f"the learner published version {version}, asked for was {action.version}")
        self.telemetry.sending_started()
        answers = await asyncio.gather(
            *(self.workers.send(worker, *self.published) for worker in self.workers.those(action.workers))
        )
        self.telemetry.published([answer for answer in answers if answer is not None])
        self._post(events.WeightsPublished(version=version))

    async def sync_worker(self, action: actions.SyncWorker) -> None:
        """Bring a worker that joined late to the published version."""
        worker = self.workers.get(action.worker)
        if worker is None or (answer := await self.workers.send(worker, *self.published)) is None:
            return
        version = answer.version
        if self.plan.run.self_check and version == self.started_from:  # later, weights move under the comparison
            try:
                await self._self_check(worker)
            except WorkerFailure as failure:
                self.workers.failed(failure)
                return
        self._post(events.WorkerSynced(worker=action.worker, version=version))

    async def evaluate(self, action: actions.Evaluate) -> None:
        """Run held-out tasks at one pinned version beside training; results go to the monitor only."""
        workers = self.workers.those(action.workers)
        if not workers:
            self._post(events.EvaluationFailed(version=action.version, reason="all its workers died"))
            return
        self.telemetry.evaluation_started()
        self.checkpoints.await_score(action.version)
        try:
            result: EvaluationResult = await evaluate(
                self.heldout,
                self.encode,
                workers,
                self.services.verifier,
                samples=self.plan.eval.samples,
                max_tokens=self.plan.task.max_tokens,
                label=str(action.version),
            )
        except WorkerFailure as failure:
            self.workers.failed(failure)
            self._post(events.EvaluationFailed(version=action.version, reason=str(failure)))
            return
        self.telemetry.evaluation(action.version, result)
        await self.checkpoints.score(action.version, result.metrics[JUDGED_BY])
        self._post(events.EvaluationFinished(version=action.version))

    async def checkpoint(self, action: actions.Checkpoint) -> None:
        """Write weights, optimizer, scheduler state and journal position as one atomic frontier."""
        # As of this version, before anything is waited for.
        states = {name: json.dumps(dict(controller.state())) for name, controller in self.controllers.items()}

        async def save(folder: Path) -> None:
            for name, state in states.items():
                (folder / name).write_text(state)
            await self.services.learner.save(folder)

        await self.checkpoints.write(action.version, action.state, save)
        self._post(events.CheckpointWritten(version=action.version))

    # Below: workers that come and go, and the plumbing between coroutines and the queue.

    async def _start_worker(self) -> None:
        worker = await self.workers.start()
        # An engine starts from the model folder, which no version describes: it is always synchronised first.
        self._post(events.WorkerJoined(worker=worker.name, version=-1, capacity=worker_capacity(self.plan)))

    def _worker_lost(self, failure: WorkerFailure) -> None:
        self.telemetry.problem(f"{failure.worker} died; a new worker is starting and its groups will run again")
        self._post(events.WorkerLost(worker=failure.worker))
        self._spawn(self._start_worker())

    async def _self_check(self, worker: RolloutService) -> None:
        """Raises SelfCheckError, which stops the run."""
        report = await self_check(
            worker,
            self.services.learner,
            prompts=(self.encode(self.plan.task.train_task(0, self.plan.seed)), self.published[0].probe_ids),
            temperature=self.temperature.policy(),
            truncation=self.plan.truncation,
            dtype=coarser(self.plan.rollout.dtype, self.plan.learner.dtype),
            max_model_len=self.plan.rollout.max_model_len,
        )
        if report is not None:
            log.info("%s passed its self-check: %s", worker.name, report)

    async def _next_event(self) -> events.Event:
        deadline_s = self.plan.run.stall_deadline_s
        try:
            item = await asyncio.wait_for(self.events.get(), deadline_s)
        except TimeoutError as late:
            self.services.dump_stacks()
            await asyncio.sleep(STACKS_APPEAR_S)
            waits = "; ".join(str(wait) for wait in self.scheduler.waiting_on)
            raise StallError(
                f"nothing happened for {deadline_s:.0f} s (run.stall_deadline_s) while the run waits for {waits};"
                " the stacks of all local actors are in the run's logs/"
            ) from late
        if isinstance(item, BaseException):
            raise item
        return item

    def _post(self, event: events.Event) -> None:
        self.events.put_nowait(event)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run an action beside the loop; whatever it raises is raised by `run`."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            self.events.put_nowait(error)

    async def _cancel_all(self) -> None:
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
