"""The monitor tells everybody, and a resumed run goes on where its checkpoint stands."""

import json

import pytest

from orchestration.monitor import Monitor, MonitorConfig, report
from orchestration.monitor import monitor as monitor_module
from orchestration.monitor.metrics_log import read_metrics


class FakeWandb:
    made: list["FakeWandb"] = []

    def __init__(self, **arguments):
        self.arguments, self.rows, self.closed = arguments, [], False
        FakeWandb.made.append(self)

    def write(self, row):
        self.rows.append(row)

    def close(self):
        self.closed = True


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """test_report.py draws them."""
    monkeypatch.setattr(report, "write_report", lambda folder: folder / "report.html")


@pytest.fixture
def fake_wandb(monkeypatch):
    monkeypatch.setattr(monitor_module, "WandbLog", FakeWandb)
    FakeWandb.made.clear()
    return FakeWandb.made


def started(folder, **config):
    settings = MonitorConfig(**{"console": "none", **config})
    return Monitor(settings, folder=folder, title="t", total_steps=9, run_config={"seed": 1})


@pytest.mark.parametrize(
    ("mode", "key", "online"),
    [("auto", "k", True), ("auto", None, False), ("auto", "", False), ("offline", "k", False)],
)
def test_wandb_is_online_only_with_a_key(tmp_path, monkeypatch, fake_wandb, mode, key, online):
    """ "auto" uploads where WANDB_API_KEY says something, "offline" never."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("WANDB_API_KEY", key)
    monitor = started(tmp_path, wandb=mode)
    monitor.record({"step": 1, "time/elapsed_s": 1.0})
    monitor.close()
    assert fake_wandb[0].arguments["online"] is online
    assert fake_wandb[0].rows == [{"step": 1, "time/elapsed_s": 1.0}]
    assert fake_wandb[0].closed


def test_wandb_disabled_is_never_touched(tmp_path, fake_wandb):
    """wandb=disabled does not even import it."""
    started(tmp_path, wandb="disabled").close()
    assert fake_wandb == []


def test_a_resumed_run_knows_its_age(tmp_path):
    """Resumed at step 2, a monitor keeps two steps, knows their seconds, and notes the resume."""
    first = started(tmp_path, wandb="disabled")
    for step in (1, 2, 3):
        first.record({"step": step, "time/elapsed_s": 1.5 * step})
    first.close()
    config = MonitorConfig(console="none", wandb="disabled")
    second = Monitor(config, folder=tmp_path, title="t", total_steps=9, run_config={}, resumed_at=2)
    assert second.elapsed_before_s == 3.0
    second.record({"step": 3, "time/elapsed_s": 4.0})
    second.close()
    assert [(row["step"], row["time/elapsed_s"]) for row in read_metrics(tmp_path / "metrics.jsonl")] == [
        (1, 1.5),
        (2, 3.0),
        (3, 4.0),
    ]
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [event["text"] for event in events] == ["resumed at step 2"]


def test_an_evaluation_is_shown_under_its_own_step(tmp_path, monkeypatch):
    """A late evaluation of step 1 does not move the console's step back to 1."""
    shown = []
    monkeypatch.setattr(
        monitor_module.NoConsole, "update", lambda view, latest, trained: shown.append((latest, trained))
    )
    monitor = started(tmp_path, wandb="disabled")
    monitor.record({"step": 3, "time/elapsed_s": 3.0, "train/reward": 0.5})
    monitor.evaluated({"step": 1, "time/elapsed_s": 3.1, "eval/pass@1": 0.4})
    monitor.record({"step": 4, "time/elapsed_s": 4.0})
    assert (shown[1][0]["step"], shown[1][1]) == (1, False)
    assert shown[2][0] == {"step": 4, "time/elapsed_s": 4.0, "train/reward": 0.5, "eval/pass@1": 0.4}
    monitor.close()
