"""How fast the quickstart learns, how much memory it takes, and what asynchrony buys; prints Markdown for
docs/benchmarks.md.

    python scripts/bench_quickstart.py --seeds 0 1 2

Each seed is a whole `temper train experiment=quickstart`, evaluated every 5 steps so that the seconds to a level are
known to about a second. Times are wall-clock from the first training rollout, evaluations taken out: they are there for
the reader of the curve, and the baseline's figures do not contain them either. Staleness 0 and 1 are compared in one
session, without evaluation, taking turns.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

LEVELS = (0.85, 0.90, 0.94)
EVALUATE_EVERY = 5  # steps
COMPARED_STEPS = 60
SETTLING_STEPS = 5  # left out of steps per second: the pipeline fills
MEMORY_SAMPLE_S = 0.5


def train(folder: Path, *overrides: str) -> tuple[list[dict], float]:
    """One run; returns its metrics rows and the peak memory of all its processes in GiB (shared pages counted once)."""
    command = [sys.executable, "-m", "orchestration.cli", "train", "experiment=quickstart", "monitor=quiet"]
    process = subprocess.Popen([*command, f"run.dir={folder}", *overrides])
    peak = [0.0]
    sampler = threading.Thread(target=watch_memory, args=(process, peak), daemon=True)
    sampler.start()
    if process.wait():
        raise SystemExit(f"the run in {folder} failed with exit code {process.returncode}")
    sampler.join()
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()], peak[0]


def watch_memory(process: subprocess.Popen, peak: list[float]) -> None:
    """Proportional set size of the run: its own process tree and Ray's, which detaches itself from it."""
    before = {other.pid for other in psutil.process_iter()}
    while process.poll() is None:
        total = 0
        for other in psutil.process_iter():
            if other.pid not in before or other.pid == process.pid:
                try:
                    total += other.memory_full_info().pss
                except psutil.Error:
                    continue  # it ended between the two calls
        peak[0] = max(peak[0], total / 2**30)
        time.sleep(MEMORY_SAMPLE_S)


def training_s(row: dict) -> float:
    return row["time/elapsed_s"] - row["time/evaluation_s"]


def seconds_to(rows: list[dict], level: float) -> float | None:
    """Training seconds at the first evaluation that reaches `level`, at the step it evaluated."""
    reached = next((row["step"] for row in rows if row.get("eval/pass@1", 0.0) >= level), None)
    if reached is None:
        return None
    return next((training_s(row) for row in rows if row["step"] == reached and "train/reward" in row), 0.0)


def steps_per_s(rows: list[dict]) -> float:
    steps = [row for row in rows if "train/reward" in row]
    first, last = steps[SETTLING_STEPS], steps[-1]
    return (last["step"] - first["step"]) / (training_s(last) - training_s(first))


def learning(seeds: list[int], folder: Path) -> None:
    print("| seed | pass@1 start | greedy start | " + " | ".join(f"s to {level:.2f}" for level in LEVELS), end="")
    print(" | pass@1 end | greedy end | steps/s | peak GiB |")
    print("|" + " --- |" * (7 + len(LEVELS)))
    for seed in seeds:
        rows, peak = train(folder / f"seed{seed}", f"seed={seed}", f"eval.every={EVALUATE_EVERY}")
        evaluations = [row for row in rows if "eval/pass@1" in row]
        start, end = evaluations[0], evaluations[-1]
        times = (seconds_to(rows, level) for level in LEVELS)
        cells = [
            str(seed),
            f"{start['eval/pass@1']:.3f}",
            f"{start['eval/greedy']:.3f}",
            *("never" if s is None else f"{s:.1f}" for s in times),
            f"{end['eval/pass@1']:.3f}",
            f"{end['eval/greedy']:.3f}",
            f"{steps_per_s(rows):.2f}",
            f"{peak:.2f}",
        ]
        print("| " + " | ".join(cells) + " |", flush=True)


def staleness(folder: Path, rounds: int) -> None:
    print("\n| round | steps/s, max_staleness=0 | steps/s, max_staleness=1 | ratio | worst mismatch-KL, synchronous |")
    print("| --- | --- | --- | --- | --- |")
    for number in range(rounds):
        rates, worst_kl = [], 0.0
        for bound in (0, 1):
            rows, _ = train(
                folder / f"staleness{bound}-{number}",
                f"run.max_staleness={bound}",
                f"run.steps={COMPARED_STEPS}",
                "eval.every=0",
                "eval.at_start=false",
                "eval.at_end=false",
            )
            steps = [row for row in rows if "train/reward" in row]
            assert max(row["staleness/max"] for row in steps) <= bound
            rates.append(steps_per_s(rows))
            if bound == 0:
                worst_kl = max(row["mismatch/kl"] for row in steps)
        print(
            f"| {number} | {rates[0]:.2f} | {rates[1]:.2f} | {rates[1] / rates[0]:.2f} | {worst_kl:.1e} |", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=2, help="comparisons of staleness 0 and 1")
    parser.add_argument("--keep", type=Path, help="keep the run folders here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        learning(arguments.seeds, folder)
        staleness(folder, arguments.rounds)


if __name__ == "__main__":
    main()
