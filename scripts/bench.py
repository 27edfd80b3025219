"""Everything that is measured, one after the other, on a quiet machine: what `make bench` runs.

    python scripts/bench.py

Each script prints Markdown; its numbers belong into docs/benchmarks.md with the machine and the date.
"""

import subprocess
import sys
from pathlib import Path

SCRIPTS = ("bench_learner.py", "bench_quickstart.py")


def main() -> int:
    for script in SCRIPTS:
        print(f"\n## {script}\n", flush=True)
        if code := subprocess.run([sys.executable, Path(__file__).parent / script], check=False).returncode:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
