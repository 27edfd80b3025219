"""Everything that is measured, one after the other, on a quiet machine: what `make bench` runs.

    python scripts/bench.py

Each script prints Markdown; its numbers belong into docs/benchmarks.md with the machine and the date.
"""

import subprocess
import sys
from pathlib import Path

DATA = ["--data", "../shared/data"]  # public problems; what needs them says so where they are absent
SCRIPTS = {
    "bench_learner.py": [],
    "bench_learner_loss.py": [],
    "bench_learner_packing.py": DATA,
    "bench_weights.py": [],
    "bench_quickstart.py": [],
    "bench_scheduler.py": [],
    "bench_overlap.py": [],
    "bench_rollout.py": [],
    "bench_speculation.py": [],
    "bench_drafter.py": ["--parts", "losses", "engine"],  # with "run" some four minutes more
    "bench_math_verifier.py": DATA,
    "bench_verilog_verifier.py": [*DATA, "--soak", "10000"],
}


def main() -> int:
    for script, arguments in SCRIPTS.items():
        print(f"\n## {script}\n", flush=True)
        if code := subprocess.run([sys.executable, Path(__file__).parent / script, *arguments], check=False).returncode:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
