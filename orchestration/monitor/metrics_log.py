"""metrics.jsonl: everything measured, one JSON object a line, on disk before `write` returns.

A line is what one training step or one evaluation measured, and always has `step` and `time/elapsed_s`:

    {"step": 12, "time/elapsed_s": 14.1, "train/reward": 0.61, "entropy/mean": 0.21, ...}
    {"step": 10, "time/elapsed_s": 14.3, "policy_version": 10, "eval/pass@1": 0.55, "eval/greedy": 0.6, ...}

An evaluation runs beside training, so its line can come after lines of later steps.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

from orchestration.errors import ConfigError

REQUIRED = ("step", "time/elapsed_s")

Row = dict[str, float]


class MetricsLog:
    """Appends to metrics.jsonl. A run resumed at step k keeps the lines up to k: what came later is done again.

    Raises ConfigError where a run that is not resumed would overwrite another run's metrics.
    """

    def __init__(self, path: Path, *, resumed_at: int | None = None) -> None:
        rows = read_metrics(path)
        if rows and resumed_at is None:
            raise ConfigError(
                f"{path.parent} already holds a run of {int(max(row['step'] for row in rows))} steps:"
                f" continue it with temper resume {path.parent}, or choose another run.dir"
            )
        kept = [row for row in rows if row["step"] <= (resumed_at or 0)]
        # Written beside and renamed, so that a run killed right here loses nothing.
        rewritten = path.with_suffix(".jsonl.new")
        rewritten.write_text("".join(_line(row) for row in kept), encoding="utf-8")
        os.replace(rewritten, path)
        self._file = path.open("a", encoding="utf-8")
        self.elapsed_s = max((row["time/elapsed_s"] for row in kept), default=0.0)

    def write(self, row: Mapping[str, float]) -> None:
        """Append one line. Raises ValueError unless it says at which step and when."""
        missing = [name for name in REQUIRED if name not in row]
        if missing:
            raise ValueError(f"a line of metrics needs {' and '.join(REQUIRED)}, got only {sorted(row)}")
        self._file.write(_line(row))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[Row]:
    """All rows in the order of writing, not-a-number for null; none where there is no file.

    A last line without its end was being written when the run was killed, and is left out.
    """
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            rows.append({name: math.nan if value is None else value for name, value in json.loads(line).items()})
    return rows


def series(rows: list[Row], name: str, over: str) -> tuple[list[float], list[float]]:
    """The metric `name` as (places, values), its places read from `over`, in rising order of place."""
    points = sorted((row[over], row[name]) for row in rows if name in row and over in row)
    return [place for place, _ in points], [value for _, value in points]


def _line(row: Mapping[str, float]) -> str:
    # JSON has no word for NaN and infinity.
    return json.dumps({name: _number(value) for name, value in row.items()}) + "\n"


def _number(value: float) -> int | float | None:
    if isinstance(value, int):
        return value
    return float(value) if math.isfinite(value) else None  # float() also takes numpy's and torch's numbers
