"""What the console says, on a terminal and off it."""

import io
import math

import pytest
from rich.console import Console

from orchestration.monitor import console as console_module
from orchestration.monitor.console import LivePanel, Pace, PlainLines, sparkline

STEP = {
    "step": 2,
    "time/elapsed_s": 3.5,
    "train/reward": 0.25,
    "eval/pass@1": 0.5,
    "entropy/mean": 0.125,
    "staleness/max": 1,
    "mismatch/kl": 3e-9,
    "rollout/tokens_per_s": 5210.4,
}


def test_off_a_terminal_each_step_is_one_line():
    """A log file gets one line a step with reward, pass@1, entropy, staleness, rate and ETA, however long it is."""
    out = io.StringIO()
    view = PlainLines(Console(file=out, width=40), total_steps=10)
    view.update({**STEP, "step": 1}, trained=True)
    view.update(STEP, trained=True)
    lines = out.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[1].startswith(
        "step 2/10  3.5 s  reward 0.250  pass@1 0.500  entropy 0.125  staleness 1  KL 3.0e-09  tokens/s 5,210"
    )
    assert "ETA 0:00:00" in lines[1]


def test_off_a_terminal_an_evaluation_is_one_line():
    """An evaluation shows its own metrics and nothing of training."""
    out = io.StringIO()
    PlainLines(Console(file=out, width=200), total_steps=10).update(STEP, trained=False)
    assert out.getvalue() == "step 2/10  3.5 s  eval/pass@1 0.500\n"


def test_on_a_terminal_the_panel_shows_the_newest_numbers():
    """The panel holds step, reward, pass@1 with its step, entropy, staleness and tokens per second."""
    out = io.StringIO()
    view = LivePanel(Console(file=out, width=140, force_terminal=True, color_system=None), title="run", total_steps=10)
    view.update(STEP, trained=True)
    view.update(STEP, trained=False)
    view.say("a worker [died] here")
    view.close()
    shown = out.getvalue()
    for text in ("2/10", "0.250", "0.500", "at step 2", "0.125", "3.0e-09", "5,210", "a worker [died] here"):
        assert text in shown


def test_the_pace_is_that_of_the_last_ten_steps(monkeypatch):
    """Seconds a step and seconds left follow the newest steps, so a slow start does not spoil the estimate."""
    clock = iter([0.0, 100.0, *(100.0 + 2 * step for step in range(1, 11))])
    monkeypatch.setattr(console_module.time, "monotonic", lambda: next(clock))
    pace = Pace(total_steps=51)
    assert pace.step_s == 0.0
    assert pace.remaining_s is None
    for step in range(12):
        pace.stepped(step)
    assert pace.step_s == pytest.approx(2.0)
    assert pace.remaining_s == pytest.approx(80.0)


def test_sparkline_spans_lowest_to_highest():
    """The lowest value is the lowest bar, the highest the highest; not-a-number leaves a gap."""
    assert sparkline([0.0, 1.0, 0.5, math.nan]) == "▁█▅ "
    assert sparkline([3.0, 3.0]) == "▁▁"
    assert sparkline([]) == ""
