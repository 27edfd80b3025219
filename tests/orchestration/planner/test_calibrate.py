"""Calibration: from the files of a made-up run with known rates back to these rates."""

import json
import sqlite3
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from orchestration.config import RunPlan, load_plan
from orchestration.errors import ConfigError
from orchestration.events import Event
from orchestration.pace import scheduler_config
from orchestration.planner.calibrate import calibrate, with_given
from orchestration.planner.rates import Lengths, Rates
from orchestration.planner.replay import read_events, replay
from orchestration.planner.simulation import Setting, Simulation
from orchestration.run_folder import RunFolder

STEPS, GROUPS, SIZE, TOKENS = 8, 4, 4, 30
TRUE = Rates(
    decode={1: 1 / (0.020 + 0.001), 64: 64 / (0.020 + 0.064)},
    lengths=Lengths(histogram={TOKENS: 1.0}),
    learner_tokens_per_s=400.0,
    verdicts_per_s=16.0,
    verdict_latency_s=0.3,
    transfer_s=0.25,
    checkpoint_s=0.5,
)


class Recorded(Simulation):
    """A simulation that remembers what its scheduler is told, and when."""

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self.told: list[tuple[float, Event]] = []

    def _tell(self, event: Event) -> None:
        self.told.append((1.7e9 + self.now, event))
        super()._tell(event)


@pytest.fixture(scope="module")
def plan() -> RunPlan:
    return load_plan(
        [
            "experiment=quickstart",
            f"run.steps={STEPS}",
            f"run.groups_per_step={GROUPS}",
            f"run.group_size={SIZE}",
            "run.max_staleness=0",
            "run.checkpoint_every=4",
            "eval.every=0",
            "eval.at_end=false",
        ]
    )


def made_up(folder: Path, plan: RunPlan, *, rows: int = STEPS, rollouts: bool = True) -> RunFolder:
    """The files of a run with the rates TRUE. Responses are all TOKENS long; batches vary from step to step."""
    room = (plan.run.max_staleness + 1) * GROUPS
    world = {"workers": 1, "ranks": 1, "group_size": SIZE, "longest": 48, "running": 64, "capacity": room}
    run = Recorded(Setting(pacing=scheduler_config(plan), rates=TRUE, **world))
    run.run()
    with sqlite3.connect(folder / "journal.sqlite") as database:
        database.execute("CREATE TABLE events (seq INTEGER PRIMARY KEY, lineage, time, kind, json)")
        database.executemany(
            "INSERT INTO events (lineage, time, kind, json) VALUES (1, ?, ?, ?)",
            [(time, type(event).__name__, json.dumps(asdict(event))) for time, event in run.told],
        )
        if rollouts:
            database.execute("CREATE TABLE rollouts (response_ids BLOB)")
            blob = np.zeros(TOKENS, "<i4").tobytes()
            database.executemany("INSERT INTO rollouts VALUES (?)", [(blob,)] * (GROUPS * SIZE))
    busy_s = [step.rollout_busy_s for step in run.steps]
    lines = []
    for number, step in enumerate(run.steps[:rows]):
        before = run.steps[number - 1] if number else None
        batch = 4.0 + 3.0 * number
        step_s = step.at_s - (before.at_s if before else 0.0)
        lines.append(
            {
                "step": number + 1,
                "time/elapsed_s": step.at_s,
                "time/step_s": step_s,
                "train/reward": 0.5,
                "rollout/response_tokens": float(TOKENS),
                "rollout/batch": batch,
                "rollout/decode_s": 0.020 + 0.001 * batch,
                "rollout/utilisation": (busy_s[number] - (busy_s[number - 1] if number else 0.0)) / step_s,
            }
        )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return RunFolder(folder)


def test_the_rates_of_a_run_are_found_again(tmp_path: Path, plan: RunPlan):
    """Decode line, lengths, learner, verifiers, publication and checkpoint, from the events alone and the metrics."""
    found = calibrate(made_up(tmp_path, plan), plan).rates
    most = plan.rollout.max_num_seqs
    assert found.decode == pytest.approx({1: 1 / 0.021, most: most / (0.020 + 0.001 * most)})
    assert found.lengths == Lengths(histogram={TOKENS: 16})
    assert found.learner_fixed_s == 0.0
    assert found.learner_tokens_per_s == pytest.approx(400.0)
    assert found.verdicts_per_s == pytest.approx(16.0, rel=0.03)
    assert found.verdict_latency_s == pytest.approx(0.3, abs=0.03)
    assert found.transfer_s == found.pause_s == pytest.approx(0.25)
    assert found.checkpoint_s == pytest.approx(0.5)
    assert found.overhead_s == pytest.approx(0.0, abs=1e-6)
    assert found.hours_between_losses is None


def test_a_calibrated_simulation_makes_the_steps_of_the_run(tmp_path: Path, plan: RunPlan):
    """And the calibration says how many those were: 0.5 s of rollout more or less would be seen."""
    found = calibrate(made_up(tmp_path, plan), plan)
    world = {"workers": 1, "ranks": 1, "group_size": SIZE, "longest": 48, "running": 64, "capacity": GROUPS}
    run = Simulation(Setting(pacing=scheduler_config(plan), rates=found.rates, **world))
    run.run()
    steady_s = (run.steps[-1].at_s - run.steps[2].at_s) / (STEPS - 3)
    assert 3600 / steady_s == pytest.approx(found.measured_steps_per_hour, rel=0.02)


def test_what_a_run_does_not_show_is_assumed_and_said(tmp_path: Path, plan: RunPlan):
    """Without responses in the journal their mean is taken, and a sentence says what their spread is a guess."""
    found = calibrate(made_up(tmp_path, plan, rollouts=False), plan)
    assert found.rates.lengths == Lengths(mean=float(TOKENS))
    assert "their lengths are assumed" in found.assumed[0]


def test_the_replay_finds_every_span(tmp_path: Path, plan: RunPlan):
    """Starts are not in the journal; the scheduler, told the same again, gives them."""
    spans = replay(scheduler_config(plan), read_events(made_up(tmp_path, plan).journal))
    assert len(spans.groups) == len(spans.verdicts) == STEPS * GROUPS
    assert [end - start for start, end in spans.steps] == pytest.approx([GROUPS * SIZE * TOKENS / 400.0] * STEPS)
    assert [end - start for start, end in spans.checkpoints] == pytest.approx([0.5, 0.5])
    assert len(spans.publications) == STEPS


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder, plan: (folder / "journal.sqlite").unlink(), "there is no .*journal.sqlite"),
        (
            lambda folder, plan: (folder / "metrics.jsonl").unlink(),
            "shows 0 training steps .* at least 4: make a longer",
        ),
        (lambda folder, plan: (folder / "journal.sqlite").write_text("no database" * 99), "cannot be read"),
    ],
)
def test_a_run_that_shows_too_little_is_refused(tmp_path: Path, plan: RunPlan, break_it, message: str):
    """In one sentence that says what is wanted."""
    folder = made_up(tmp_path, plan)
    break_it(tmp_path, plan)
    with pytest.raises(ConfigError, match=message):
        calibrate(folder, plan)


def test_a_run_of_another_configuration_is_refused(tmp_path: Path, plan: RunPlan):
    """The events of four groups a step do not fit a scheduler of eight."""
    folder = made_up(tmp_path, plan)
    other = replace(plan, run=replace(plan.run, groups_per_step=8))
    with pytest.raises(ConfigError, match="does not fit the run's own configuration"):
        calibrate(folder, other)


def test_a_given_rate_wins_over_a_measured_one():
    """Rates at their defaults are not given."""
    merged = with_given(TRUE, Rates(transfer_s=9.0, lengths=Lengths(mean=3.0)))
    assert merged == replace(TRUE, transfer_s=9.0, lengths=Lengths(mean=3.0))
