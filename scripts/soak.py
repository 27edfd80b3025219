"""A long run under random kill -9 of all its processes, the driver included, and what is left of it afterwards.

    python scripts/soak.py /tmp/soak --steps 2000 --kills 200 --every-s 18

Prints Markdown for docs/benchmarks.md: kills by kind, starts, trained steps, memory in the first and the last quarter,
processes left behind; then what scripts/check_run.py finds in the folder. Exit code 1 if anything is wrong.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import uuid
from collections import Counter
from pathlib import Path

import numpy as np
import psutil

SAMPLE_S = 5.0
MOST = 0.95  # quantile: how much there is at a moment depends on who is just being restarted
END_S = 30.0  # for Ray's processes to end after the driver
MARK = "TEMPER_SOAK"  # in the environment of the run, which all its processes inherit


def ours(mark: str) -> list[psutil.Process]:
    """Processes of the run, and what they started with an environment of its own (a sandbox)."""
    found = {}
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                found |= {each.pid: each for each in (process, *process.children(recursive=True))}
        except psutil.Error:
            continue  # it ended, or is a zombie
    return list(found.values())


def memory_mib(processes: list[psutil.Process]) -> float:
    """Proportional set size of them all."""
    total = 0
    for process in processes:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue  # it ended between the two calls
    return total / 2**20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--every-s", type=float, default=18.0, help="mean time between kills")
    parser.add_argument("overrides", nargs="*")
    chosen = parser.parse_args()
    mark = uuid.uuid4().hex
    started = time.monotonic()
    run = subprocess.Popen(
        [
            *(sys.executable, "-m", "orchestration.cli", "train", "experiment=quickstart", "monitor=quiet"),
            *(f"run.dir={chosen.folder}", f"run.steps={chosen.steps}", "eval.every=0", "eval.at_start=false"),
            *("chaos=default", f"chaos.every_s={chosen.every_s}", f"chaos.kills={chosen.kills}", *chosen.overrides),
        ],
        env=os.environ | {MARK: mark},
    )
    memory = []
    while run.poll() is None:
        memory.append(memory_mib(ours(mark)))
        time.sleep(SAMPLE_S)
    minutes = (time.monotonic() - started) / 60
    psutil.wait_procs(ours(mark), timeout=END_S)
    left = ours(mark)

    kills = Counter()
    if (chosen.folder / "chaos.jsonl").exists():
        lines = (chosen.folder / "chaos.jsonl").read_text().splitlines()
        kills = Counter(json.loads(line)["victim"].rpartition("-")[0] or "driver" for line in lines)
    quarter = max(1, len(memory) // 4)
    print("| minutes | exit code | kills | most memory, first quarter | last quarter | processes left |")
    print("| --- | --- | --- | --- | --- | --- |")
    by_kind = ", ".join(f"{count} {kind}" for kind, count in sorted(kills.items()))
    ends = (f"{np.quantile(part, MOST):,.0f} MiB" for part in (memory[:quarter], memory[-quarter:]))
    print(f"| {minutes:.1f} | {run.returncode} | {by_kind} | {' | '.join(ends)} | {len(left)} |")
    for process in left:
        print(f"left behind: {process.pid} {' '.join(process.cmdline())[:100]}")
    checked = subprocess.run([sys.executable, str(Path(__file__).with_name("check_run.py")), str(chosen.folder)])
    return 1 if run.returncode or left or checked.returncode else 0


if __name__ == "__main__":
    sys.exit(main())
