"""How well learner and rollouts overlap when each has a core of its own, and how well `temper plan` foretells it;
prints Markdown for docs/benchmarks.md.

    python scripts/bench_overlap.py

For several costs of a learner step and sizes of the engine's batch:

    runs    with max_staleness 0, which is synchronous, 1 and 2; the engine has core 0 to itself, all else the others
    alone   engine and learner at the same time, each on its cores, and neither waits for the other: the engine draws as
            many groups at once as the last of these runs may, with the policy it ended with; the learner trains on that
            run's rollouts and makes new weights ready after every step

An asynchronous run cannot be faster than the slower side alone. The planner is asked as a user would who has one run:
with the rates of the synchronous one, and with those of the asynchronous one itself, how much faster the second is than
the first. Only the first question has a bar: an engine that is always full shows neither small batches nor what is paid
for while it stands still. All of it takes turns, round after round, and means are compared: where other machines share
the memory, an engine step takes up to a fifth more or less from one minute to the next. Needs a quiet machine with two
cores, and about 18 minutes a variation.
"""

import argparse
import asyncio
import contextlib
import itertools
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, harmonic_mean

from orchestration.config import RunPlan, load_saved_plan
from orchestration.journal import Journal
from orchestration.monitor.metrics_log import Row, read_metrics
from orchestration.planner.answer import simulate, steady
from orchestration.planner.calibrate import calibrate
from orchestration.planner.grid import Combination, setting
from orchestration.process import prepare
from orchestration.run_folder import RunFolder

ENGINE_CORES = {0}
VARIATIONS = {
    "64 responses at once": ("rollout.max_num_seqs=64",),
    "256 at once, a step's": ("rollout.max_num_seqs=256",),
    "256, padded learner": ("rollout.max_num_seqs=256", "learner.layout=padded"),
    "256, padded learner, two passes": ("rollout.max_num_seqs=256", "learner.layout=padded", "learner.minibatches=2"),
}
BOUNDS = (1, 2)  # max_staleness of the asynchronous runs
OVERLAP = ("variation", "max_staleness", "rollouts alone, steps/s", "learner alone", "asynchronous")
OVERLAP += ("share of the slower", "engine busy", "learner busy")
PLANNED = ("variation", "max_staleness", "synchronous, steps/s", "asynchronous", "ratio")
PLANNED += ("foretold from the synchronous run", "error", "from the asynchronous", "error")
LEAST_SHARE = 0.9  # of the slower side alone: what the largest of BOUNDS should reach
LARGEST_ERROR = 0.15  # of the ratio foretold from the synchronous run
FAST_STEPS = 3  # of the learner alone, before the clock starts
PIN_EVERY_S = 0.5  # threads that an engine starts later inherit its core, unless they start in this very moment


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training run, its settled part."""

    folder: RunFolder
    steps_per_s: float
    engine_busy: float
    learner_busy: float
    step_tokens: float  # drawn for one step


@dataclass(frozen=True, kw_only=True)
class Sides:
    """Steps per second that each side would make if the other took no time."""

    rollout: float
    learner: float


def train(folder: Path, arguments: argparse.Namespace, staleness: int, overrides: Iterable[str]) -> Run:
    """One run without evaluation, its engine on cores of its own."""
    command = [sys.executable, "-m", "orchestration.cli", "train", f"experiment={arguments.experiment}"]
    process = subprocess.Popen(
        [
            *(*command, "monitor=quiet", f"run.dir={folder}", f"run.steps={arguments.steps}"),
            *(f"run.max_staleness={staleness}", "run.max_refills=0", "run.keep_rollouts=null"),
            *("eval.every=0", "eval.at_start=false", "eval.at_end=false", *overrides),
        ]
    )
    found = RunFolder(folder.absolute())
    while (code := process.poll()) is None:
        for number in engines_of(found.logs / "driver.log"):
            pin(number)
        time.sleep(PIN_EVERY_S)
    if code:
        raise SystemExit(f"the run in {folder} failed with exit code {code}: see its logs/")
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if "train/reward" in row]
    begin, end = steady(len(rows), staleness)
    spent_s = rows[end]["time/elapsed_s"] - rows[begin]["time/elapsed_s"]
    rows = rows[begin + 1 : end + 1]
    plan = load_saved_plan(found.config, [])
    return Run(
        folder=found,
        steps_per_s=len(rows) / spent_s,
        engine_busy=share(rows, "rollout/utilisation"),
        learner_busy=share(rows, "learner/utilisation"),
        step_tokens=fmean(row["rollout/response_tokens"] for row in rows)
        * plan.run.groups_per_step
        * plan.run.group_size,
    )


def share(rows: list[Row], name: str) -> float:
    """Mean over time of what each step shows of its own time."""
    return sum(row[name] * row["time/step_s"] for row in rows) / sum(row["time/step_s"] for row in rows)


def engines_of(log: Path) -> list[int]:
    """Process ids, from the driver's log as far as it is written."""
    text = log.read_text() if log.is_file() else ""
    return [int(number) for number in re.findall(r"rollout-\d+ is up, process (\d+)", text)]


def pin(process: int) -> None:
    """Give a process, all its threads, the engine's cores."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
        for thread in os.listdir(f"/proc/{process}/task"):
            os.sched_setaffinity(int(thread), ENGINE_CORES)


async def alone(run: Run, seconds: float) -> Sides:
    """Both sides of the run's plan at the same time, with the services of a real run and no loop between them."""
    import ray
    from transformers import AutoTokenizer

    from orchestration.launch import encoder
    from orchestration.on_ray.connect import connect
    from orchestration.on_ray.services import RayServices

    plan = load_saved_plan(run.folder.config, ["learner.lr=1e-12", "learner.mismatch_kl_limit=1e9"])
    policy = run.folder.checkpoints / "latest" / "policy"
    services = RayServices(plan, policy, run.folder.logs / "alone")
    connect(plan.cluster, services.cpus)
    try:
        worker, _ = await asyncio.gather(services.start_rollout_worker(), services.learner.start(policy, None))
        pin(services.alive[worker.name].pid)
        encode = encoder(AutoTokenizer.from_pretrained(policy), plan.task.chat)
        batches = batches_of(plan, run.folder)
        numbers, taken = itertools.count(), itertools.count()
        trained = 0

        async def draw() -> None:
            while True:
                async for _ in worker.generate(request(plan, encode, next(numbers))):
                    pass

        async def learn() -> None:
            nonlocal trained
            for step in taken:
                await services.learner.train(replace(batches[step % len(batches)], step=step))
                await services.learner.snapshot()
                trained += 1

        in_flight = (plan.run.max_staleness + 1) * plan.run.groups_per_step
        work = [asyncio.create_task(one) for one in (learn(), *(draw() for _ in range(in_flight)))]
        while trained < FAST_STEPS or (await worker.metrics()).generated_tokens < 2 * run.step_tokens:
            await first_failure(work, 0.1)
        before, drawn, began = trained, (await worker.metrics()).generated_tokens, time.perf_counter()
        await first_failure(work, seconds)
        drawn, spent_s = (await worker.metrics()).generated_tokens - drawn, time.perf_counter() - began
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        return Sides(rollout=drawn / spent_s / run.step_tokens, learner=(trained - before) / spent_s)
    finally:
        ray.shutdown()


async def first_failure(work: list[asyncio.Task], seconds: float) -> None:
    """Wait, and raise what one of them raises meanwhile."""
    for task in (await asyncio.wait(work, timeout=seconds, return_when=asyncio.FIRST_COMPLETED))[0]:
        task.result()


def request(plan: RunPlan, encode, number: int):
    from rollout.draw.control import controller_of
    from rollout.messages import GroupRequest

    return GroupRequest(
        group_id=str(number),
        prompt_ids=encode(plan.task.train_task(number, plan.seed)),
        n=plan.run.group_size,
        max_tokens=plan.task.max_tokens,
        temperature=controller_of(plan.temperature).policy(),
        truncation=plan.truncation,
        priority=number,
        trained=True,
    )


def batches_of(plan: RunPlan, folder: RunFolder) -> list:
    """What the run trained on, step by step."""
    from orchestration.buffer import Group, Rewards, train_batch

    rewards = Rewards(config=plan.reward, max_tokens=plan.task.max_tokens)
    with Journal.open(folder.journal, plan.run.keep_rollouts) as journal:
        steps = itertools.groupby(journal.trained_tasks(), key=lambda one: one[0])
        return [
            train_batch(
                step,
                {
                    task: Group(plan.task.train_task(task, plan.seed), draw.rollouts, draw.verdicts)
                    for _, task in tasks
                    for draw in (journal.draw(task),)
                },
                rewards,
            )
            for step, tasks in steps
        ]


def foretold(run: Run, bound: int) -> float:
    """How many times as fast a run with that max_staleness is as a synchronous one, with the rates of `run`."""
    plan = load_saved_plan(run.folder.config, [])
    plan = replace(plan, plan=replace(plan.plan, rates=calibrate(run.folder, plan).rates))
    synchronous, asynchronous = (
        simulate(
            setting(plan, Combination(workers=1, ranks=1, staleness=staleness, speculation=False)),
            total_steps=plan.run.steps,
            gpus_per_worker=1,
        ).steps_per_hour
        for staleness in (0, bound)
    )
    return asynchronous / synchronous


def row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def heading(*names: str) -> str:
    return row(*names) + "\n|" + " --- |" * len(names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="quickstart_math", help="one whose verifier needs little")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60, help="of each run")
    parser.add_argument("--seconds", type=float, default=20.0, help="for which both sides are measured alone")
    parser.add_argument("--only", nargs="*", choices=VARIATIONS, default=VARIATIONS, help="these variations alone")
    parser.add_argument("--keep", type=Path, help="keep the run folders here")
    arguments = parser.parse_args()
    prepare()
    others = os.sched_getaffinity(0) - ENGINE_CORES
    if not others:
        raise SystemExit(f"needs a core besides {sorted(ENGINE_CORES)}, which the engine has to itself")
    os.sched_setaffinity(0, others)  # and whatever is started from here
    overlap, planned = [heading(*OVERLAP)], [heading(*PLANNED)]
    shares, errors = [], {"synchronous": [], "asynchronous": []}
    with tempfile.TemporaryDirectory() as temporary:
        for name in arguments.only:
            runs: dict[int, list[Run]] = {bound: [] for bound in (0, *BOUNDS)}
            sides = []
            for number in range(arguments.rounds):
                root = (arguments.keep or Path(temporary)) / re.sub(r"\W+", "-", name) / str(number)
                for bound, done in runs.items():
                    done.append(train(root / str(bound), arguments, bound, VARIATIONS[name]))
                sides.append(asyncio.run(alone(runs[max(BOUNDS)][-1], arguments.seconds)))
            rollout, learner = (harmonic_mean(getattr(one, side) for one in sides) for side in ("rollout", "learner"))
            synchronous, *paces = (harmonic_mean(run.steps_per_s for run in done) for done in runs.values())
            for bound, pace in zip(BOUNDS, paces, strict=True):
                ratio, part = pace / synchronous, pace / min(rollout, learner)
                busy = [fmean(getattr(run, f"{side}_busy") for run in runs[bound]) for side in ("engine", "learner")]
                cells = [f"{rollout:.2f}", f"{learner:.2f}", f"{pace:.2f}", f"{part:.2f}"]
                overlap.append(row(name, bound, *cells, *(f"{one:.0%}" for one in busy)))
                cells = [f"{synchronous:.2f}", f"{pace:.2f}", f"{ratio:.2f}"]
                for kind, source in (("synchronous", 0), ("asynchronous", bound)):
                    prediction = fmean(foretold(run, bound) for run in runs[source])
                    errors[kind].append(prediction / ratio - 1)
                    cells += [f"{prediction:.2f}", f"{errors[kind][-1]:+.0%}"]
                planned.append(row(name, bound, *cells))
                print(overlap[-1], planned[-1], sep="\n", file=sys.stderr, flush=True)  # kept, whatever comes next
            shares.append(part)
    print("\n".join([*overlap, "", *planned]))
    worst = {kind: max(map(abs, found)) for kind, found in errors.items()}
    print(f"\nleast share with max_staleness={max(BOUNDS)}: {min(shares):.2f}, the bar is {LEAST_SHARE};", end=" ")
    said = ", ".join(f"{error:.0%} from the {kind} run" for kind, error in worst.items())
    print(f"largest error: {said}, the bar is {LARGEST_ERROR:.0%} from the synchronous run")
    sys.exit(min(shares) < LEAST_SHARE or worst["synchronous"] > LARGEST_ERROR)


if __name__ == "__main__":
    main()
