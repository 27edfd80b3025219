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
from orchestration.planner.calibrate import _engine, calibrate, with_given
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
    turnover_s=0.004,
    aside_s=0.002,
    snapshot_s=0.125,
    transfer_s=0.25,
    pause_s=0.0625,
    checkpoint_s=0.5,
)
WAITED_S = 0.03125  # of transfer_s, for a running engine step
SENT = {
    "weights/snapshot_s": TRUE.snapshot_s,
    "weights/transfer_s": TRUE.transfer_s,
    "weights/waited_s": WAITED_S,
    "weights/paused_s": TRUE.pause_s,
}


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


def made_up(folder: Path, plan: RunPlan, *, rates: Rates = TRUE, rows: int = STEPS, rollouts: bool = True) -> RunFolder:
    """The files of a run with the rates TRUE. Responses are all TOKENS long; the 20 engine steps that only draw have
    batches of 2 + 3 i and 6 + 3 i in step i, half of them each; two more take prompts in as well."""
    room = (plan.run.max_staleness + 1) * GROUPS
    world = {"workers": 1, "ranks": 1, "group_size": SIZE, "longest": 48, "running": 64, "capacity": room}
    run = Recorded(Setting(pacing=scheduler_config(plan), rates=rates, **world))
    run.run()
    with sqlite3.connect(folder / "journal.sqlite") as database:
        database.execute("CREATE TABLE events (seq INTEGER PRIMARY KEY, lineage, time, kind, json)")
        database.executemany(
            "INSERT INTO events (lineage, time, kind, json) VALUES (1, ?, ?, ?)",
            [(time, type(event).__name__, json.dumps(asdict(event))) for time, event in run.told],
        )
        if rollouts:
            database.execute("CREATE TABLE rollouts (task_index INTEGER, response_ids BLOB)")
            blob = np.zeros(TOKENS, "<i4").tobytes()
            database.executemany("INSERT INTO rollouts VALUES (?, ?)", [(task, blob) for task in range(GROUPS)] * SIZE)
    busy_s = [step.rollout_busy_s for step in run.steps]
    lines = []
    for number, step in enumerate(run.steps[:rows]):
        before = run.steps[number - 1] if number else None
        batch = 4.0 + 3.0 * number
        turnover_s = 0.020 + 0.001 * batch + GROUPS * SIZE * TRUE.turnover_s / 2
        step_s = step.at_s - (before.at_s if before else 0.0)
        lines.append(
            {
                "step": number + 1,
                "time/elapsed_s": step.at_s,
                "time/step_s": step_s,
                "train/reward": 0.5,
                "rollout/response_tokens": float(TOKENS),
                "rollout/begun": GROUPS * SIZE,
                "rollout/aside_s": GROUPS * SIZE * TRUE.aside_s,
                "rollout/decode_steps": 20,
                "rollout/decode_batch": batch,
                "rollout/decode_s": 0.020 + 0.001 * batch,
                "rollout/decode_batch_std": 2.0,
                "rollout/decode_token_s": 0.001,
                "rollout/turnover_steps": 2,
                "rollout/turnover_batch": batch,
                "rollout/turnover_s": turnover_s,
                **(SENT if number else {}),
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
    assert found.lengths == Lengths(recorded=((TOKENS,) * SIZE,) * GROUPS)
    assert found.learner_fixed_s == 0.0
    assert found.learner_tokens_per_s == pytest.approx(400.0)
    assert found.verdicts_per_s == pytest.approx(16.0, rel=0.03)
    assert found.verdict_latency_s == pytest.approx(0.3, abs=0.03)
    assert (found.turnover_s, found.aside_s) == (pytest.approx(0.004), pytest.approx(0.002))
    assert found.snapshot_s == pytest.approx(0.125)
    assert (found.transfer_s, found.pause_s) == pytest.approx((0.25 - WAITED_S, 0.0625))
    assert found.rejected == 0.0
    assert found.checkpoint_s == pytest.approx(0.5)
    assert found.overhead_s == pytest.approx(0.0, abs=1e-6)
    assert found.hours_between_losses is None


def test_lengths_are_those_of_whole_groups_in_the_order_of_their_tasks(tmp_path: Path, plan: RunPlan):
    folder = made_up(tmp_path, plan)
    with sqlite3.connect(folder.journal) as database:
        database.execute("DELETE FROM rollouts")
        tokens = [(9, 5), (8, 1), (9, 7), (8, 300)]
        rows = [(task, np.zeros(length, "<i4").tobytes()) for task, length in tokens]
        database.executemany("INSERT INTO rollouts VALUES (?, ?)", rows)
    assert calibrate(folder, plan).rates.lengths == Lengths(recorded=((1, 300), (5, 7)))


def test_a_calibrated_simulation_makes_the_steps_of_the_run(tmp_path: Path, plan: RunPlan):
    """And the calibration says how many those were: 0.5 s of rollout more or less would be seen."""
    found = calibrate(made_up(tmp_path, plan), plan)
    world = {"workers": 1, "ranks": 1, "group_size": SIZE, "longest": 48, "running": 64, "capacity": GROUPS}
    run = Simulation(Setting(pacing=scheduler_config(plan), rates=found.rates, **world))
    run.run()
    steady_s = (run.steps[-1].at_s - run.steps[2].at_s) / (STEPS - 3)
    assert 3600 / steady_s == pytest.approx(found.measured_steps_per_hour, rel=0.02)


def row(batch: float, std: float, **changes) -> dict:
    """A step of 10 engine steps that only drew, on the line of TRUE."""
    plain = {
        "decode_steps": 10,
        "decode_batch": batch,
        "decode_s": 0.020 + 0.001 * batch,
        "decode_batch_std": std,
        "decode_token_s": 0.001,
        "begun": 0,
    }
    return {f"rollout/{name}": value for name, value in {**plain, **changes}.items()}


def test_a_run_whose_steps_are_all_alike_shows_the_line_within_them():
    """A synchronous run: every step has the same mean batch, and all sizes down to one response inside."""
    assumed: list[str] = []
    found = _engine([row(30, 12)] * 5, 64, assumed)
    assert found["decode"] == pytest.approx(TRUE.decode)
    assert (found["turnover_s"], assumed) == (0.0, [])


def test_what_begins_and_ends_counts_also_where_nothing_else_was_drawn():
    """The second step has engine steps of the one kind only: 4 of 50 ms above the line, for 40 responses in all."""
    turnover = {"rollout/turnover_steps": 4, "rollout/turnover_batch": 30.0, "rollout/turnover_s": 0.1}
    found = _engine([row(30, 12), {**turnover, "rollout/begun": 40, "rollout/aside_s": 0.1}], 64, [])
    assert (found["turnover_s"], found["aside_s"]) == pytest.approx((4 * 0.05 / 40, 0.1 / 40))


def test_a_line_between_the_steps_counts_with_those_within_them():
    """Two steps without spread, and one with: the line through all thirty engine steps, by numpy."""
    rows = [row(10, 0, decode_s=0.040), row(40, 0, decode_s=0.050), row(30, 12, decode_s=0.055, decode_token_s=0.0005)]
    steps = [(10, 0.040)] * 10 + [(40, 0.050)] * 10 + [(18, 0.049)] * 5 + [(42, 0.061)] * 5
    slope, intercept = np.polyfit(*zip(*steps, strict=True), 1)
    found = _engine(rows, 64, [])
    assert found["decode"] == pytest.approx({1: 1 / (intercept + slope), 64: 64 / (intercept + 64 * slope)})


def test_engines_that_ran_one_batch_only_say_nothing_of_others():
    """Half of a step's time is then assumed to be there without any response, and said."""
    assumed: list[str] = []
    found = _engine([row(30, 1)] * 5, 60, assumed)
    assert found["decode"][60] == pytest.approx(60 / (0.050 * 1.5))
    assert "ran near 30 responses all the time" in assumed[0]


def test_a_run_without_times_of_engine_steps_is_refused():
    """As earlier versions of Temper wrote them."""
    with pytest.raises(ConfigError, match="has no rollout/decode_steps, .* give plan.rates.decode, or calibrate"):
        _engine([{"step": 1.0, "rollout/batch": 3.0}], 64, [])


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


def test_the_share_of_rejected_groups_is_that_of_the_verdicts(tmp_path: Path, plan: RunPlan):
    """Of a run that refills its batches; each verdict is one way or the other."""
    refilling = replace(plan, run=replace(plan.run, max_refills=9))
    folder = made_up(tmp_path, refilling, rates=replace(TRUE, rejected=0.5))
    told = [type(event).__name__ for _, event in read_events(folder.journal)]
    rejected, kept = told.count("GroupRejected"), told.count("VerdictsArrived")
    assert kept == STEPS * GROUPS
    assert 0.3 < calibrate(folder, refilling).rates.rejected == rejected / (rejected + kept) < 0.7


def test_a_given_rate_wins_over_a_measured_one():
    """Rates at their defaults are not given."""
    merged = with_given(TRUE, Rates(transfer_s=9.0, lengths=Lengths(mean=3.0)))
    assert merged == replace(TRUE, transfer_s=9.0, lengths=Lengths(mean=3.0))
