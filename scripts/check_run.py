"""Check a run folder from the outside: was every task trained exactly once, and did versions only ever rise?

    python scripts/check_run.py runs/latest

It reads journal and metrics with sqlite3 and json alone, and shares no code with what wrote them. Prints what it
counted; exit code 1, with a sentence for each, if something is wrong.
"""

import argparse
import json
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path


def faults(folder: Path, counted: dict[str, int]) -> Iterator[str]:
    """A sentence for everything that is not as it should be; fills `counted` on the way."""
    with sqlite3.connect(f"file:{folder / 'journal.sqlite'}?mode=ro", uri=True) as journal:
        trained = journal.execute(
            "SELECT trained_step, task_index, admitted_version FROM groups WHERE state = 'trained'"
        ).fetchall()
        rejected = [task for (task,) in journal.execute("SELECT task_index FROM rejections")]
        starts = journal.execute("SELECT count(*) FROM lineages").fetchone()[0]
    tasks = Counter(task for _, task, _ in trained)
    per_step = Counter(step for step, _, _ in trained)
    counted |= {"starts": starts, "steps": len(per_step), "trained groups": len(trained), "tasks": len(tasks)}
    for task, times in tasks.items():
        if times > 1:
            yield f"task {task} was trained {times} times"
    if rejected:
        counted["rejected tasks"] = len(rejected)
    both = tasks.keys() & set(rejected)
    if both:
        yield f"{len(both)} tasks were both rejected and trained, such as {min(both)}"
    missing = set(range(len(tasks) + len(rejected))) - tasks.keys() - set(rejected)
    if missing:
        yield f"{len(missing)} tasks were neither trained nor rejected, such as {min(missing)}, and later ones were"
    if sorted(per_step) != list(range(len(per_step))):
        yield f"the trained steps are not 0 to {len(per_step) - 1}: {sorted(per_step)[:10]} ..."
    if len(set(per_step.values())) > 1:
        yield f"steps consumed different numbers of groups: {Counter(per_step.values())}"
    young = [step for step, _, version in trained if version > step]
    if young:
        yield f"step {young[0]} trained a group that was admitted at a later version"

    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    versions = [row["policy_version"] for row in rows if "train/loss" in row]
    counted["steps in metrics.jsonl"] = len(versions)
    if versions != sorted(set(versions)):
        yield "policy versions in metrics.jsonl do not rise by themselves from row to row"
    if versions and versions != list(range(1, versions[-1] + 1)):
        yield f"metrics.jsonl has {len(versions)} steps up to version {versions[-1]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    counted: dict[str, int] = {}
    found = list(faults(parser.parse_args().folder, counted))
    print(", ".join(f"{count:,} {name}" for name, count in counted.items()))
    for fault in found:
        print(f"WRONG: {fault}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
