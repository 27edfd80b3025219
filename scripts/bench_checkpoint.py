"""Time for which a checkpoint keeps the learner from training: written in its turn, or copied in it and written beside.

    OMP_NUM_THREADS=1 python scripts/bench_checkpoint.py [--folder /where/runs/are] [--rounds 5]

On a model of the quickstart's shape and on one of 135 M parameters, float32, random weights, ZeRO-0. A checkpoint is
what a run writes: weights and both moments in float32, and the policy as a Hugging Face folder. Each round saves in
both ways, in one process. `held`: until the next step can begin; `on disk`: until every file is there and fsynced;
`step`: a train step, alone and begun while the files are being written.
"""

import argparse
import asyncio
import dataclasses
import shutil
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from bench_learner import learner
from learner_workloads import SMOLLM2, TINY, batch_of_lengths, save_model

from learner.messages import TrainBatch
from learner.worker import LearnerWorker
from orchestration.process import prepare

MODELS = {"quickstart's": TINY, "135 M": SMOLLM2}
GROUPS, SIZE, PROMPT_TOKENS, RESPONSE_TOKENS = 4, 8, 10, 24


@dataclasses.dataclass(frozen=True, kw_only=True)
class Times:
    """In seconds."""

    held: float
    on_disk: float
    step: float
    size: int  # bytes


def train(worker: LearnerWorker, batch: TrainBatch) -> float:
    began = time.perf_counter()
    worker.train(dataclasses.replace(batch, step=worker.version))
    return time.perf_counter() - began


def save(worker: LearnerWorker, batch: TrainBatch, folder: Path, copied: bool) -> Times:
    """One checkpoint, with a train step as soon as it can begin."""
    worker.config = dataclasses.replace(worker.config, copy_checkpoints=copied)
    began = time.perf_counter()
    worker.begin_save(folder, folder / "policy")
    held = time.perf_counter() - began
    with ThreadPoolExecutor() as beside:
        finished = beside.submit(finish, worker, folder)
        step = train(worker, batch)
        ended, size = finished.result()
    shutil.rmtree(folder)
    return Times(held=held, on_disk=ended - began, step=step, size=size)


def finish(worker: LearnerWorker, folder: Path) -> tuple[float, int]:
    """When all is on disk, and how many bytes that is."""
    size = sum(asyncio.run(worker.finish_save(folder)).values())
    return time.perf_counter(), size


def row(name: str, shape: dict[str, object], folder: Path, rounds: int) -> None:
    save_model(folder / "model", shape)
    worker = learner(folder / "model")
    lengths = [[RESPONSE_TOKENS] * SIZE] * GROUPS
    batch = batch_of_lengths([PROMPT_TOKENS] * GROUPS, lengths, shape["vocab_size"])
    train(worker, batch)
    before, after, alone = [], [], []
    for _ in range(rounds):
        alone.append(train(worker, batch))
        before.append(save(worker, batch, folder / "written", copied=False))
        after.append(save(worker, batch, folder / "copied", copied=True))
    blocked, held = (statistics.median(one.held for one in times) for times in (before, after))
    ratio = statistics.median(one.held / two.held for one, two in zip(before, after, strict=True))
    on_disk = [statistics.median(one.on_disk for one in times) for times in (before, after)]
    steps = statistics.median(alone), statistics.median(one.step for one in after)
    print(
        f"| {name} | {after[0].size / 1e6:,.0f} | {blocked:.3f} | {held:.3f} | {ratio:.1f} |"
        f" {on_disk[0]:.2f} | {on_disk[1]:.2f} | {steps[0]:.2f} | {steps[1]:.2f} |",
        flush=True,
    )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--folder", help="on the disk to measure; default: where temporary files are")
    arguments.add_argument("--rounds", type=int, default=5)
    given = arguments.parse_args()
    prepare()
    torch.set_num_threads(1)
    print("| model | MB | held s: written | copied | ratio | on disk s: written | copied | step s: alone | beside |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for name, shape in MODELS.items():
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            row(name, shape, Path(folder), given.rounds)


if __name__ == "__main__":
    main()
