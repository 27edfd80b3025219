"""What a step shows of the clock: utilisation and publication, on a clock that the test turns."""

from types import SimpleNamespace

import pytest

from learner.messages import StepReport
from orchestration import telemetry
from orchestration.telemetry import Telemetry
from rollout.messages import Taken, WeightConfirmation
from tests.orchestration.counters import engine


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


class Rows:
    """Stands in for the monitor."""

    elapsed_before_s = 0.0

    def __init__(self) -> None:
        self.rows: list[dict] = []

    def record(self, row: dict) -> None:
        self.rows.append(row)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(telemetry, "time", clock)
    return clock


@pytest.fixture
def told(clock: Clock) -> tuple[Telemetry, list[dict]]:
    monitor = Rows()
    told = Telemetry(SimpleNamespace(run=SimpleNamespace(steps=9)), monitor, None)
    told.group_started()
    return told, monitor.rows


def step(told: Telemetry, version: int, learner_s: float, busy_s: float) -> None:
    metrics = {"learner/step_s": learner_s, "learner/tokens": 1.0}
    told.step(StepReport(version=version, metrics=metrics), {}, {"rollout-0": engine(busy_s=busy_s, steps=1)})


def confirmed(seconds: float, paused_s: float) -> WeightConfirmation:
    policy = Taken(parameters=1, bytes=4)
    rest = {"version": 1, "checksum": "", "policy": policy, "drafter": None, "probe_error": 0.0}
    return WeightConfirmation(worker="rollout-0", seconds=seconds, paused_s=paused_s, **rest)


def snapshot(told, clock, seconds: float) -> None:
    """The learner makes new weights ready, and they are on their way."""
    told.snapshot_started()
    clock.now += seconds
    told.sending_started()


def test_utilisation_is_the_share_of_the_time_since_the_last_step(told, clock):
    """Steps 4 s and 5 s apart, engines busy for 3 s and then for 2 s, the learner for 1 s and for 1.5 s and a snapshot
    of 0.5 s in the second."""
    told, rows = told
    clock.now += 4.0
    step(told, 1, learner_s=1.0, busy_s=3.0)
    snapshot(told, clock, 0.5)
    clock.now += 0.25
    told.published([])
    clock.now += 4.25
    step(told, 2, learner_s=1.5, busy_s=5.0)
    assert [row["rollout/utilisation"] for row in rows] == pytest.approx([3 / 4, 2 / 5])
    assert [row["learner/utilisation"] for row in rows] == pytest.approx([1 / 4, 2 / 5])


def test_a_publication_is_shown_by_the_step_after_it(told, clock):
    """Snapshot 0.5 s, transfer 2 s; two engines waited for 0.25 s and 0.75 s and stood still for 1 s and 0.5 s."""
    told, rows = told
    snapshot(told, clock, 0.5)
    clock.now += 2.0
    told.published([confirmed(1.25, 1.0), confirmed(1.25, 0.5)])
    for version in (1, 2):
        clock.now += 1.0
        step(told, version, learner_s=0.1, busy_s=0.0)
    shown = [{name: row[name] for name in row if name.startswith("weights/")} for row in rows]
    assert shown[0] == pytest.approx(
        {"weights/snapshot_s": 0.5, "weights/transfer_s": 2.0, "weights/waited_s": 0.5, "weights/paused_s": 0.75}
    )
    assert shown[1] == {}


def test_nothing_is_lost_of_publications_that_steps_overtake(told, clock):
    """A step ends while weights travel, and the next snapshot follows: each row has what ended in its time."""
    told, rows = told
    snapshot(told, clock, 0.5)
    clock.now += 1.0
    step(told, 1, learner_s=0.1, busy_s=0.0)
    clock.now += 1.0
    told.published([confirmed(1.0, 1.0)])
    snapshot(told, clock, 0.25)
    clock.now += 1.0
    step(told, 2, learner_s=0.1, busy_s=0.0)
    assert rows[0]["weights/snapshot_s"] == pytest.approx(0.5)
    assert "weights/transfer_s" not in rows[0]
    assert (rows[1]["weights/snapshot_s"], rows[1]["weights/transfer_s"]) == pytest.approx((0.25, 2.0))
