"""How well `temper plan` foretells what asynchrony brings: real runs of several rollout:learner cost ratios beside its
prediction; prints Markdown for docs/benchmarks.md.

    python scripts/bench_planner.py

Each variation is run synchronously and with a staleness of 1, in turns. The prediction that is judged has its rates
from the asynchronous run, as a user would calibrate, and foretells the synchronous one; the other has them from the
synchronous run, which shows smaller batches only. Needs a quiet machine with a core for the engine and one for the
learner; a round takes about four minutes on two cores.
"""

import argparse
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from orchestration.config import RunPlan, load_saved_plan
from orchestration.monitor.metrics_log import read_metrics
from orchestration.planner.answer import Answer, simulate
from orchestration.planner.calibrate import calibrate
from orchestration.planner.grid import Combination, setting
from orchestration.process import prepare
from orchestration.run_folder import RunFolder

VARIATIONS = {
    "small engine batches": ("rollout.max_num_seqs=48",),
    "as it is": (),
    "padded learner": ("learner.layout=padded",),
    "padded learner and two passes": ("learner.layout=padded", "learner.minibatches=2"),
}
STEPS = 30
SETTLING_STEPS = 6  # left out: the pipeline fills, caches too
BAR = 0.15


def train(folder: Path, experiment: str, staleness: int, *overrides: str) -> float:
    """One run without evaluation; returns its steps per second."""
    command = [sys.executable, "-m", "orchestration.cli", "train", f"experiment={experiment}", "monitor=quiet"]
    subprocess.run(
        [
            *(*command, f"run.dir={folder}", f"run.steps={STEPS}", f"run.max_staleness={staleness}"),
            *("eval.every=0", "eval.at_start=false", "eval.at_end=false", *overrides),
        ],
        check=True,
    )
    steps = [row for row in read_metrics(folder / "metrics.jsonl") if "train/reward" in row]
    return (len(steps) - 1 - SETTLING_STEPS) / (steps[-1]["time/elapsed_s"] - steps[SETTLING_STEPS]["time/elapsed_s"])


def predicted(folder: Path) -> tuple[Answer, Answer]:
    """The run simulated with staleness 0 and 1, with the rates of the run in `folder`."""
    found = RunFolder.open(folder)
    plan: RunPlan = load_saved_plan(found.config, [])
    plan = replace(plan, plan=replace(plan.plan, rates=calibrate(found, plan).rates))
    synchronous, asynchronous = (
        simulate(
            setting(plan, Combination(workers=1, ranks=1, staleness=staleness, speculation=False)),
            total_steps=STEPS,
            gpus_per_worker=1,
        )
        for staleness in (0, 1)
    )
    return synchronous, asynchronous


def gain(pair: tuple[Answer, Answer]) -> float:
    return pair[1].steps_per_hour / pair[0].steps_per_hour


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="quickstart_math", help="one whose verifier needs no core of its own")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", nargs="*", choices=VARIATIONS, help="these variations alone")
    parser.add_argument("--keep", type=Path, help="keep the run folders here")
    arguments = parser.parse_args()
    prepare()
    worst = 0.0
    columns = ("variation", "rollout : learner busy, synchronous", "steps/s, synchronous", "steps/s, staleness 1")
    columns += ("ratio", "predicted", "error", "predicted from the synchronous run")
    print("| " + " | ".join(columns) + " |\n|" + " --- |" * len(columns))
    with tempfile.TemporaryDirectory() as temporary:
        root = arguments.keep or Path(temporary)
        for name, overrides in VARIATIONS.items():
            if arguments.only and name not in arguments.only:
                continue
            rounds = []
            for number in range(arguments.rounds):
                folders = [root / f"{name.replace(' ', '-')}-{number}-{staleness}" for staleness in (0, 1)]
                paces = [
                    train(folder, arguments.experiment, staleness, *overrides)
                    for staleness, folder in enumerate(folders)
                ]
                rounds.append((*paces, *(predicted(folder) for folder in folders)))
            synchronous, asynchronous = (fmean(one[index] for one in rounds) for index in (0, 1))
            from_synchronous, foretold = (fmean(gain(one[index]) for one in rounds) for index in (2, 3))
            busy = rounds[-1][2][0]
            error = foretold / (asynchronous / synchronous) - 1
            worst = max(worst, abs(error))
            print(
                f"| {name} | {busy.rollout_utilisation:.0%} : {busy.learner_utilisation:.0%} | {synchronous:.2f}"
                f" | {asynchronous:.2f} | {asynchronous / synchronous:.2f} | {foretold:.2f} | {error:+.0%}"
                f" | {from_synchronous:.2f} |",
                flush=True,
            )
    print(f"\nlargest error {worst:.0%}, the bar is {BAR:.0%}")
    sys.exit(worst > BAR)


if __name__ == "__main__":
    main()
