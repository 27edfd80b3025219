"""Fakes at the three seams of the run loop, and a run that is made of them."""

import asyncio
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from learner.config import LearnerConfig
from learner.messages import Publication, StepReport, TrainBatch
from orchestration.checkpoint_store import CheckpointStore
from orchestration.config import EvaluationConfig, RunConfig
from orchestration.errors import WorkerFailure
from orchestration.journal import Journal
from orchestration.launch import scheduler_config, still_owed
from orchestration.loop import RunLoop
from orchestration.scheduler import Scheduler
from orchestration.tasks.task import Task
from reward.config import RewardConfig
from reward.messages import Status, Verdict
from rollout.config import RolloutConfig
from rollout.draw.fit import Recomputed
from rollout.draw.temperature import Fixed
from rollout.draw.truncation import Truncation
from rollout.messages import FinishReason, Rollout, Taken, VersionSpan, WeightConfirmation
from rollout.strategies import Plain
from tests.orchestration.counters import NEW

RESPONSE_TOKENS = 6


class FakeTasks:
    max_tokens = 8
    chat = False

    def train_task(self, index: int, seed: int) -> Task:
        return Task(id=f"task-{index}", prompt=str(index), verifier="fake", reference={"task": index})

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
        self.asleep = False
        self.drawing = 0

    async def generate(self, request):
        assert not self.asleep, "it was not woken by new weights"
        self.drawing += 1
        try:
            async for rollout in self._draw(request):
                yield rollout
        finally:
            self.drawing -= 1

    async def _draw(self, request):
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
        self.asleep = False
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

    async def sleep(self):
        assert not self.drawing, "asleep in the middle of a response"
        self.asleep = True
        self.services.slept += 1

    async def metrics(self):
        return NEW


class FakeVerifier:
    """Says that every other response is right, or all, to the tasks in `all_right`."""

    def __init__(self, status: Status, hangs: bool):
        self.status = status
        self.hangs = hangs
        self.all_right: tuple[int, ...] = ()

    async def verify(self, requests):
        if self.hangs:
            await asyncio.Event().wait()
        right = requests[0].reference.get("task") in self.all_right
        rewards = [1 if right else i % 2 for i in range(len(requests))]
        return [
            Verdict(id=r.id, reward=reward, status=self.status, detail="so")
            for r, reward in zip(requests, rewards, strict=True)
        ]


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
        self.workers: list[FakeWorker] = []
        self.requests = []  # all of them, those of evaluations too
        self.stacks_dumped = False
        self.slept = 0

    async def start_rollout_worker(self):
        self.started += 1
        self.workers.append(FakeWorker(f"rollout-{self.started - 1}", self))
        return self.workers[-1]

    def dump_stacks(self):
        self.stacks_dumped = True


class Silent:
    """Stands in for telemetry: takes every call, says nothing."""

    def __getattr__(self, name):
        return lambda *arguments: None


def plan_of(sleep=False, **run) -> SimpleNamespace:
    settings = {"steps": 6, "groups_per_step": 3, "group_size": 2, "max_staleness": 1, "self_check": False, **run}
    return SimpleNamespace(
        run=RunConfig(**settings),
        eval=EvaluationConfig(every=2, tasks=2, samples=2),
        rollout=RolloutConfig(workers=2, sleep=sleep),
        seed=0,
        temperature=Fixed(),
        truncation=Truncation(),
        strategy=Plain(),
        learner=LearnerConfig(),
        algorithm=SimpleNamespace(teacher=False, refill=False),
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
