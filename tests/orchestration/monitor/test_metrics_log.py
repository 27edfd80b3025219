"""metrics.jsonl survives kills and resumes, and a reader never sees a step twice."""

import json
import math

import numpy as np
import pytest

from orchestration.errors import ConfigError
from orchestration.monitor.metrics_log import MetricsLog, read_metrics, series


def row(step, **metrics):
    return {"step": step, "time/elapsed_s": float(step), **metrics}


def test_a_line_is_on_disk_when_write_returns(tmp_path):
    """A run killed right after a step keeps that step's line."""
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.write(row(1, reward=0.5))
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "time/elapsed_s": 1.0, "reward": 0.5}
    log.close()


def test_every_line_is_strict_json(tmp_path):
    """Not-a-number and infinity become null, numpy's numbers plain ones, and integers stay integers."""
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.write(row(1, lost=math.nan, far=math.inf, small=np.float32(0.5)))
    log.close()

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert line == {"step": 1, "time/elapsed_s": 1.0, "lost": None, "far": None, "small": 0.5}
    assert isinstance(line["step"], int)
    assert math.isnan(read_metrics(tmp_path / "metrics.jsonl")[0]["lost"])


@pytest.mark.parametrize("lacking", ["step", "time/elapsed_s"])
def test_a_line_says_where_and_when(tmp_path, lacking):
    """Metrics without a step or a time are refused."""
    log = MetricsLog(tmp_path / "metrics.jsonl")
    line = row(1, reward=0.5)
    del line[lacking]
    with pytest.raises(ValueError, match=r"step and time/elapsed_s"):
        log.write(line)
    log.close()


def test_a_resumed_run_forgets_what_its_checkpoint_does_not_know(tmp_path):
    """Lines after the checkpoint's step are dropped, a line torn by the kill too, and new ones are appended."""
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps(row(step)) + "\n" for step in (1, 2, 3, 4)]
    path.write_text("".join(lines) + '{"step": 5, "time/el')
    log = MetricsLog(path, resumed_at=2)
    assert log.elapsed_s == 2.0
    log.write(row(3, again=1.0))
    log.close()
    assert read_metrics(path) == [row(1), row(2), row(3, again=1.0)]


def test_a_new_run_does_not_overwrite_an_old_one(tmp_path):
    """Starting in a folder with metrics is refused in one sentence that names both ways out."""
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(row(7)) + "\n")
    with pytest.raises(ConfigError, match=r"holds a run of 7 steps.*temper resume .*run\.dir"):
        MetricsLog(path)
    assert read_metrics(path) == [row(7)]


def test_series_orders_late_evaluations():
    """An evaluation that arrives after later ones still stands at its own step."""
    rows = [row(10, score=0.5), row(30, score=0.9), row(20, score=0.7), row(25)]
    assert series(rows, "score", "step") == ([10, 20, 30], [0.5, 0.7, 0.9])
