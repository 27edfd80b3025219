"""The run loop with fakes at its three seams: what it promises holds whatever the services do."""

import asyncio
import sqlite3
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from learner.config import LearnerConfig
from learner.messages import Publication, StepReport, TrainBatch
from orchestration.checkpoint_store import CheckpointStore
from orchestration.config import EvaluationConfig, RunConfig
from orchestration.errors import SchedulerError, StallError, WorkerFailure
from orchestration.journal import Journal
from orchestration.launch import scheduler_config, still_owed
from orchestration.loop import RunLoop
from orchestration.scheduler import Scheduler
from orchestration.tasks.task import Task
from reward.config import RewardConfig
from reward.messages import Status, Verdict
from rollout.config import RolloutConfig
from rollout.draw.control import Scheduled
from rollout.draw.fit import Recomputed
from rollout.draw.temperature import Fixed
from rollout.draw.truncation import Truncation
from rollout.errors import RolloutError, SelfCheckError
from rollout.messages import EngineMetrics, FinishReason, Rollout, Taken, VersionSpan, WeightConfirmation
from rollout.strategies import Plain, SecondRollout
from tests.orchestration.journal.records import rollout

RESPONSE_TOKENS = 6


class FakeTasks:
    max_tokens = 8
    chat = False

    def train_task(self, index: int, seed: int) -> Task:
        return Task(id=f"task-{index}", prompt=str(index), verifier="fake", reference={})

    def heldout_tasks(self, count: int) -> list[Task]:
        return [self.train_task(1_000_000 + i, 0) for i in range(count)]


class FakeWorker:
    """Draws tokens with the weights it holds, which may change in the middle of a response; dies on request."""

    def __init__(self, name: str, services: "FakeServices"):
        self.name = name
        self.services = services
        self.version = -1
        self.served = 0
        self.dead = False

    async def generate(self, request):
        self.served += 1
        self.services.requests.append(request)
        if self.served == self.services.die_at.get(self.name):
            self.dead = True
        spans = []
        for token in range(RESPONSE_TOKENS):
            if self.dead:
                raise WorkerFailure(f"{self.name} died", worker=self.name, died=True)
            if not spans or spans[-1].version != self.version:
                spans.append(VersionSpan(version=self.version, start=token, end=token))
            spans[-1] = VersionSpan(version=spans[-1].version, start=spans[-1].start, end=token + 1)
            await asyncio.sleep(0)
        zeros = np.zeros(RESPONSE_TOKENS, np.float32)
        for i in reversed(range(request.n)):  # they may finish in any order
            yield Rollout(
                group_id=request.group_id,
                index=i,
                prompt_ids=request.prompt_ids,
                response_ids=zeros.astype(np.int32),
                sampler_logprobs=zeros,
                temperatures=zeros + request.temperature(torch.zeros(RESPONSE_TOKENS)).numpy(),
                entropies=zeros,
                spans=tuple(spans),
                text=f"{i}",
                finish_reason=FinishReason.STOP,
                drafted_tokens=0,
                accepted_histogram=(),
                seconds=0.0,
            )

    async def update_weights(self, publication, payload):
        if self.dead:
            raise WorkerFailure(f"{self.name} died", worker=self.name, died=True)
        self.version = publication.version
        claimed = publication.version - self.services.confirms_behind
        return WeightConfirmation(
            worker=self.name,
            version=claimed,
            checksum=publication.checksum,
            policy=Taken(parameters=1, bytes=4),
            drafter=None,
            probe_error=0.0,
            seconds=0.0,
            paused_s=0.0,
        )

    async def metrics(self):
        return EngineMetrics(
            generated_tokens=0,
            running=0,
            waiting=0,
            capacity=1,
            busy_s=0.0,
            steps=0,
            kv_cache_usage=0.0,
            prompt_tokens=0,
            cached_prompt_tokens=0,
            preemptions=0,
            aborted=0,
            drafted_by_position=(),
            accepted_by_position=(),
        )


class FakeVerifier:
    def __init__(self, status: Status, hangs: bool):
        self.status = status
        self.hangs = hangs

    async def verify(self, requests):
        if self.hangs:
            await asyncio.Event().wait()
        return [Verdict(id=r.id, reward=i % 2, status=self.status, detail="so") for i, r in enumerate(requests)]


class FakeLearner:
    """Counts versions; a checkpoint is the number."""

    off = 0.0

    def __init__(self, version: int):
        self.version = version
        self.batches: list[TrainBatch] = []

    async def train(self, batch):
        assert batch.step == self.version, "a step starts from the version the learner holds"
        await asyncio.sleep(0.001)
        self.batches.append(batch)
        self.version += 1
        return StepReport(version=self.version, metrics={})

    async def snapshot(self):
        return Publication(version=self.version, checksum=f"c{self.version}", probe_ids=(1,), probe_entropy=0.0), b""

    async def score(self, responses):
        """Agrees with `FakeWorker`'s record, but for entropies that are `off` by so many nats."""
        count = RESPONSE_TOKENS
        zeros, evenly = np.zeros(count, np.float32), (np.arange(count) + 0.5) / count
        one = Recomputed(entropies=zeros + self.off, logprobs=zeros, untempered=zeros, places=np.stack([evenly] * 2))
        return self.version, [one] * len(responses)

    async def save(self, folder: Path):
        (folder / "version").write_text(str(self.version))


class FakeServices:
    def __init__(self, *, version=0, die_at=None, status=Status.SCORED, hangs=False, confirms_behind=0):
        self.die_at = dict(die_at or {})
        self.confirms_behind = confirms_behind
        self.learner = FakeLearner(version)
        self.verifier = FakeVerifier(status, hangs)
        self.started = 0
        self.requests = []  # all of them, those of evaluations too
        self.stacks_dumped = False

    async def start_rollout_worker(self):
        self.started += 1
        return FakeWorker(f"rollout-{self.started - 1}", self)

    def dump_stacks(self):
        self.stacks_dumped = True


class Silent:
    """Stands in for telemetry: takes every call, says nothing."""

    def __getattr__(self, name):
        return lambda *arguments: None


def plan_of(**run) -> SimpleNamespace:
    settings = {"steps": 6, "groups_per_step": 3, "group_size": 2, "max_staleness": 1, "self_check": False, **run}
    return SimpleNamespace(
        run=RunConfig(**settings),
        eval=EvaluationConfig(every=2, tasks=2, samples=2),
        rollout=RolloutConfig(workers=2),
        seed=0,
        temperature=Fixed(),
        truncation=Truncation(),
        strategy=Plain(),
        learner=LearnerConfig(),
        algorithm=SimpleNamespace(teacher=False),
        task=FakeTasks(),
        reward=RewardConfig(),
    )


def run(folder: Path, plan: SimpleNamespace, services: FakeServices, stop_at: int | None = None):
    """One start of a run in `folder`, from its newest checkpoint; `stop_at`: ask it to end at that version."""

    async def main():
        with Journal.open(folder / "journal.sqlite") as journal:
            store = CheckpointStore(folder / "checkpoints", keep_last=2, keep_best=1)
            saved = store.latest()
            services.learner.version = saved.version if saved else 0
            journal.resume(saved.version if saved else 0)
            drawn = still_owed(plan, journal, lambda task: (1, 2))
            scheduler = Scheduler(scheduler_config(plan), saved and saved.state, drawn)
            loop = RunLoop(plan, scheduler, services, lambda task: (1, 2), journal, store, Silent())
            if saved is not None:
                loop.restore(saved.folder)
            if stop_at is not None:
                train = services.learner.train

                async def train_then_stop(batch):
                    report = await train(batch)
                    if report.version == stop_at:
                        loop.stop()
                    return report

                services.learner.train = train_then_stop
            return await loop.run(), journal.trained_tasks()

    return asyncio.run(asyncio.wait_for(main(), 30))


def staleness(batches: list[TrainBatch]) -> list[int]:
    return [int(batch.step - sample.versions.min()) for batch in batches for sample in batch.samples]


def test_the_temperature_follows_its_controller_through_a_resume(tmp_path):
    """A schedule goes on where it stopped; synchronous, each step is drawn at its own temperature."""
    plan = plan_of(max_staleness=0)
    plan.temperature = Scheduled(start=1.5, end=1.0, steps=5)
    first, second = FakeServices(), FakeServices()
    run(tmp_path, plan, first, stop_at=3)
    run(tmp_path, plan, second)
    drawn = [float(batch.samples[0].temperatures[0]) for batch in first.learner.batches + second.learner.batches]
    assert drawn == pytest.approx([1.5, 1.4, 1.3, 1.2, 1.1, 1.0], abs=1e-6)


def test_a_strategys_second_temperature_has_a_controller_of_its_own(tmp_path):
    """It observes every step, goes on after a resume, and reaches what is trained alone."""
    plan = plan_of(max_staleness=0)
    plan.strategy = SecondRollout(second=Scheduled(start=1.5, end=1.0, steps=5))
    first, second = FakeServices(), FakeServices()
    run(tmp_path, plan, first, stop_at=3)
    run(tmp_path, plan, second)
    asked = first.requests + second.requests
    assert {one.second_temperature for one in asked if not one.trained} == {None}
    drawn = [one.second_temperature.temperature for one in asked if one.trained]
    assert drawn[::3] == pytest.approx([1.5, 1.4, 1.3, 1.2, 1.1, 1.0], abs=1e-6)
    assert drawn[::3] == drawn[1::3] == drawn[2::3]


@pytest.mark.parametrize("bound", [0, 1, 3])
def test_every_task_is_trained_once_and_no_token_is_older_than_the_bound(tmp_path, bound):
    """All steps are taken, tasks 0 .. N - 1 once each and in order, and staleness never exceeds max_staleness."""
    services = FakeServices()
    report, trained = run(tmp_path, plan_of(max_staleness=bound), services)
    assert (report.version, report.completed) == (6, True)
    assert trained == [(i // 3, i) for i in range(18)]
    assert max(staleness(services.learner.batches)) <= bound


def test_asynchronous_training_really_overlaps(tmp_path):
    """With max_staleness = 1 some tokens are one version old; otherwise the test above would prove nothing."""
    services = FakeServices()
    run(tmp_path, plan_of(), services)
    assert 1 in staleness(services.learner.batches)


def test_a_lost_rollout_worker_costs_nothing_but_a_rerun(tmp_path):
    """A worker dies with groups in flight: it is replaced, and every task is still trained exactly once."""
    services = FakeServices(die_at={"rollout-0": 5, "rollout-1": 9})
    report, trained = run(tmp_path, plan_of(), services)
    assert report.completed
    assert [task for _, task in trained] == list(range(18))
    assert services.started == 4


def test_stop_and_resume_trains_no_task_twice(tmp_path):
    """Stopped after step 3 and resumed, the run ends as one that was never stopped."""
    report, _ = run(tmp_path, plan_of(), FakeServices(), stop_at=3)
    assert 3 <= report.version < 6
    assert not report.completed
    report, trained = run(tmp_path, plan_of(), FakeServices())
    assert report.completed
    assert Counter(task for _, task in trained) == Counter(range(18))


def test_what_a_dead_process_drew_is_trained_and_not_drawn_again(tmp_path):
    """The learner fails in its first step: of the next process, no task that version 0 drew is asked for once more."""
    first, second = FakeServices(), FakeServices()

    async def fail(batch):
        raise WorkerFailure("learner-0 died", worker="learner-0", died=True)

    first.learner.train = fail
    with pytest.raises(WorkerFailure, match="learner-0 died"):
        run(tmp_path, plan_of(), first)
    database = sqlite3.connect(tmp_path / "journal.sqlite")
    drawn = {task for (task,) in database.execute("SELECT task_index FROM draws")}
    judged = {task for (task,) in database.execute("SELECT DISTINCT task_index FROM verdicts")}
    database.close()
    assert len(drawn) >= 3
    asked = []
    verify = second.verifier.verify

    async def remember(requests):
        asked.extend(int(request.group) for request in requests if request.group.isdecimal())
        return await verify(requests)

    second.verifier.verify = remember
    report, trained = run(tmp_path, plan_of(), second)
    assert report.completed
    assert [task for _, task in trained] == list(range(18))
    again = {int(one.group_id.partition(".")[0]) for one in second.requests if one.trained}
    assert again == set(range(18)) - drawn
    assert set(asked) == set(range(18)) - judged, "nor judged again"
    assert max(staleness(second.learner.batches)) <= 1


def test_draws_for_another_prompt_or_group_size_are_not_taken_up(tmp_path):
    """Task source or group size were overridden on the resume."""
    with Journal.open(tmp_path / "journal.sqlite") as journal:
        journal.resume(0)
        ones = [rollout(index) for index in range(2)]  # the prompt is (5, 6)
        journal.add_draw(group=0, attempt=1, task_index=0, task_id="t", prompt="p", rollouts=ones)
        assert still_owed(plan_of(), journal, lambda task: (5, 6)) == {0: 0}
        assert still_owed(plan_of(), journal, lambda task: (5, 7)) == {}
        assert still_owed(plan_of(group_size=3), journal, lambda task: (5, 6)) == {}


def test_the_best_checkpoint_stays(tmp_path):
    """Steps 2, 4 and 6 are evaluated; the first of equal scores stays beside the two newest."""
    plan = plan_of(checkpoint_every=2, keep_best=1)
    run(tmp_path, plan, FakeServices())
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir())[:2] == ["best", "latest"]


def test_groups_that_cannot_be_judged_stop_the_run_after_their_retries(tmp_path):
    """Verdicts of status `error` are never trained on: the group runs again, then the run stops with the reason."""
    services = FakeServices(status=Status.ERROR)
    plan = plan_of()
    plan.eval = EvaluationConfig(every=0, at_start=False, at_end=False, tasks=1)
    with pytest.raises(SchedulerError, match=r"no response could be judged \(error: so\)"):
        run(tmp_path, plan, services)
    assert not services.learner.batches


@pytest.mark.parametrize("status", [Status.TIMEOUT, Status.RESOURCE])
def test_responses_that_met_a_limit_are_trained_with_reward_0_only_where_asked_for(tmp_path, status):
    """Dropped by default, which here leaves nothing of any group; with drop=[error] they count as 0, not as written."""
    plan = plan_of()
    plan.eval = EvaluationConfig(every=0, at_start=False, at_end=False, tasks=1)
    for folder in ("dropped", "trained"):
        (tmp_path / folder).mkdir()
    with pytest.raises(SchedulerError, match=rf"no response could be judged \({status}: so\)"):
        run(tmp_path / "dropped", plan, FakeServices(status=status))
    plan.reward = RewardConfig(drop=(Status.ERROR,))
    services = FakeServices(status=status)
    report, _ = run(tmp_path / "trained", plan, services)
    assert report.completed
    assert [sample.reward for batch in services.learner.batches for sample in batch.samples] == [0.0] * 6 * 3 * 2


def test_a_worker_that_confirms_other_weights_stops_the_run(tmp_path):
    """A silent non-update is impossible: the confirmation must name the version that was sent."""
    with pytest.raises(RolloutError, match="confirmed v-1 .* but was sent v0"):
        run(tmp_path, plan_of(), FakeServices(confirms_behind=1))


def test_workers_are_checked_against_the_learner_before_the_first_group(tmp_path):
    """Engines that agree start the run; one that does not stops it before any group is drawn or trained."""
    (tmp_path / "sound").mkdir()
    (tmp_path / "broken").mkdir()
    assert run(tmp_path / "sound", plan_of(self_check=True), FakeServices())[0].completed
    services = FakeServices()
    services.learner.off = 0.5
    with pytest.raises(SelfCheckError, match=r"rollout-[01] records entropies at T=1 that are 0.5 nats"):
        run(tmp_path / "broken", plan_of(self_check=True), services)
    assert services.requests
    assert all(one.group_id.startswith("self-check") for one in services.requests)


def test_a_stall_says_who_is_waited_for(tmp_path):
    """When nothing happens before the deadline the run stops with a sentence, and the actors' stacks are asked for."""
    services = FakeServices(hangs=True)
    with pytest.raises(StallError, match="while the run waits for the evaluation of version 0"):
        run(tmp_path, plan_of(stall_deadline_s=0.3), services)
    assert services.stacks_dumped
