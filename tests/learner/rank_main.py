"""One learner rank in a process of its own, started by test_ranks.py: trains, and says what it saw and what came out.

python tests/learner/rank_main.py <rank> <world size> <port> <input pickle> <output pickle>
"""

import asyncio
import os
import pickle
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch.distributed as dist

from learner.config import LearnerConfig
from learner.engine import Engine
from learner.messages import Publication, TrainBatch
from learner.objective import Objective
from learner.worker import LearnerWorker
from orchestration.process import prepare
from rollout.draw.fit import Drawn, Recomputed


@dataclass(frozen=True, kw_only=True)
class Job:
    """Train on `batches`; the last step is taken by a learner that knows only what was saved before it."""

    model: Path
    config: LearnerConfig
    objective: Objective
    batches: Sequence[TrainBatch]
    total_steps: int
    save_to: Path
    start_from: Path | None = None  # a checkpoint
    then: LearnerConfig | None = None  # of the learner of the last step; None: `config`
    killed: bool = False  # in the middle of the last step, by a signal that nothing can catch
    responses: Sequence[Drawn] = ()
    export: bool = False


@dataclass(frozen=True, kw_only=True)
class Answer:
    """`metrics` of each step; what the last weights are published as, and say of the job's responses."""

    metrics: list[dict[str, float]] = field(default_factory=list)
    record: Publication
    payload: bytes
    scores: list[Recomputed]


def partition_small_parameters_too() -> None:
    """ZeRO-3 leaves parameters below 1e5 elements whole, which are all of a test model's."""
    original = Engine._deepspeed_config

    def config(engine):
        settings = original(engine)
        settings["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        return settings

    Engine._deepspeed_config = config


def answer(job: Job, rank: int, world_size: int, port: int) -> Answer:
    def start(config: LearnerConfig) -> LearnerWorker:
        return LearnerWorker(job.model, config, job.objective, rank, world_size, "127.0.0.1", port, 0, job.total_steps)

    worker = start(job.config)
    if job.start_from is not None:
        worker.load(job.start_from)
    metrics = [dict(worker.train(batch).metrics) for batch in job.batches[:-1]]
    if job.killed:
        worker.save(job.save_to)
        worker.engine.step = lambda lr: os.kill(os.getpid(), signal.SIGKILL)
        worker.train(job.batches[-1])
    worker.begin_save(job.save_to)
    worker.train(job.batches[-1])  # training goes on, and what comes of it is lost
    asyncio.run(worker.finish_save(job.save_to))
    dist.barrier()
    worker = start(job.then or job.config)
    worker.load(job.save_to)
    metrics.append(dict(worker.train(job.batches[-1]).metrics))
    if job.export:
        worker.export(job.save_to / "policy")
    record, payload = worker.publish()
    return Answer(
        metrics=metrics,
        record=record,
        payload=payload.tobytes(),
        scores=worker.score(job.responses)[1] if job.responses else [],
    )


def main(rank: int, world_size: int, port: int, given: Path, answers: Path) -> None:
    prepare()
    partition_small_parameters_too()
    jobs = pickle.loads(given.read_bytes())
    answers.write_bytes(pickle.dumps({name: answer(job, rank, world_size, port) for name, job in jobs.items()}))


if __name__ == "__main__":
    from tests.learner import rank_main  # under the name by which the answers are read

    arguments = sys.argv[1:]
    rank_main.main(*map(int, arguments[:3]), *map(Path, arguments[3:]))
