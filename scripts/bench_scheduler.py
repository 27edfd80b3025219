"""What an event costs the scheduler, from 10 to 4 096 workers, and how long a million groups on 4 096 engines take to
simulate; prints Markdown for docs/benchmarks.md and draws docs/images/scheduler.png.

    python scripts/bench_scheduler.py

Every action is answered at once and in order. CPU seconds of `Scheduler.handle` alone, the best of three rounds that
take turns; making the answers is not counted. The simulation is counted whole.
"""

import argparse
import time
from collections import deque
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from orchestration import actions, events
from orchestration.actions import Action
from orchestration.events import Event
from orchestration.monitor.curves import CORAL, STYLE, TEAL
from orchestration.planner.rates import Lengths, Rates
from orchestration.planner.simulation import Setting, Simulation
from orchestration.scheduler import Scheduler
from orchestration.scheduler_config import SchedulerConfig

WORKERS = (10, 32, 128, 512, 1024, 2048, 4096)
GROUPS_PER_STEP = (512, 8192)
LEAST_GROUPS = 60_000  # of one measurement
ROUNDS = 3
AT_ONCE = 1024  # events between two looks at the clock
BAR = 100_000  # events per second
STALENESS = 1
ENGINES, GROUP_SIZE, MILLION = 4096, 16, 1_000_000


def pacing(groups_per_step: int, steps: int, eval_at_start: bool = False) -> SchedulerConfig:
    return SchedulerConfig(
        groups_per_step=groups_per_step,
        total_steps=steps,
        max_staleness=STALENESS,
        publish_every=1,
        eval_every=0,
        eval_at_start=eval_at_start,
        eval_at_end=False,
        checkpoint_every=0,
    )


def answer(action: Action) -> Event:
    match action:
        case actions.StartGroup(group=group, attempt=attempt, version=version):
            return events.GroupFinished(group=group, attempt=attempt, min_version=version)
        case actions.ScoreGroup(group=group, attempt=attempt):
            return events.VerdictsArrived(group=group, attempt=attempt)
        case actions.Train(step=step):
            return events.StepTrained(version=step + 1)
        case actions.Publish(version=version):
            return events.WeightsPublished(version=version)
        case actions.Checkpoint(version=version):
            return events.CheckpointWritten(version=version)
    raise ValueError(f"{action} is not asked for in this run")


def event_s(workers: int, groups_per_step: int) -> float:
    """CPU seconds of one event, mean of a whole run."""
    steps = max(3, LEAST_GROUPS // groups_per_step)
    scheduler = Scheduler(pacing(groups_per_step, steps))
    room = (STALENESS + 1) * groups_per_step
    waiting = deque(events.WorkerJoined(worker=f"rollout-{i}", version=0, capacity=room) for i in range(workers))
    handled, spent_s = 0, 0.0
    while not scheduler.done:
        some = [waiting.popleft() for _ in range(min(AT_ONCE, len(waiting)))]
        out: list[Action] = []
        before = time.process_time()
        for event in some:
            out += scheduler.handle(event)
        spent_s += time.process_time() - before
        handled += len(some)
        waiting.extend(map(answer, out))
    return spent_s / handled


def events_table() -> dict[int, list[float]]:
    best = {(workers, groups): float("inf") for groups in GROUPS_PER_STEP for workers in WORKERS}
    for _ in range(ROUNDS):
        for workers, groups in best:
            best[workers, groups] = min(best[workers, groups], event_s(workers, groups))
    print("| workers | " + " | ".join(f"events/s, {groups} groups a step" for groups in GROUPS_PER_STEP) + " |")
    print("|" + " --- |" * (1 + len(GROUPS_PER_STEP)))
    for workers in WORKERS:
        print(f"| {workers} | " + " | ".join(f"{1 / best[workers, groups]:,.0f}" for groups in GROUPS_PER_STEP) + " |")
    return {groups: [best[workers, groups] for workers in WORKERS] for groups in GROUPS_PER_STEP}


def draw(cost: dict[int, list[float]], path: Path) -> None:
    with rc_context(STYLE):
        figure = Figure(figsize=(7.2, 4.2), layout="constrained")
        axes = figure.subplots()
        axes.set(title="What an event costs the scheduler", xlabel="rollout workers", ylabel="microseconds of CPU")
        for (groups, seconds), color in zip(cost.items(), (CORAL, TEAL), strict=True):
            axes.semilogx(
                WORKERS, [1e6 * one for one in seconds], color=color, marker="o", label=f"{groups} groups a step"
            )
        axes.axhline(1e6 / BAR, color="grey", linewidth=1, linestyle=":")
        axes.annotate(f"{BAR:,} events/s", (WORKERS[0], 1e6 / BAR), xytext=(0, 4), textcoords="offset points")
        axes.set_ylim(0, 1.25e6 / BAR)
        axes.set_xticks(WORKERS, [str(workers) for workers in WORKERS])
        axes.minorticks_off()
        axes.legend(loc="lower right")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=140, facecolor="white")


def simulation(groups: int) -> None:
    groups_per_step = 2 * ENGINES
    steps = -(-groups // groups_per_step)
    run = Simulation(
        Setting(
            pacing=pacing(groups_per_step, steps, eval_at_start=True),
            rates=Rates(
                decode={1: 40.0, 64: 1600.0, 256: 3200.0},
                lengths=Lengths(mean=1000.0, spread=0.8),
                learner_tokens_per_s=20_000.0,
                verdict_latency_s=1.0,
                snapshot_s=2.0,
                transfer_s=5.0,
                pause_s=1.0,
            ),
            workers=ENGINES,
            ranks=512,
            group_size=GROUP_SIZE,
            longest=8192,
            running=256,
            capacity=(STALENESS + 1) * groups_per_step,
        )
    )
    before = time.process_time()
    run.run()
    spent_s = time.process_time() - before
    print(
        f"\n{len(run.trained_tokens):,} groups of {GROUP_SIZE} responses on {ENGINES:,} engines, {run.now / 3600:.1f}"
        f" hours of a run: {spent_s:.0f} s of CPU on one core, {run.events:,} events"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Path, default=Path("docs/images/scheduler.png"))
    parser.add_argument("--groups", type=int, default=MILLION, help="of the simulation; 0 leaves it out")
    arguments = parser.parse_args()
    draw(events_table(), arguments.picture)
    if arguments.groups:
        simulation(arguments.groups)


if __name__ == "__main__":
    main()
