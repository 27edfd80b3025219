"""The command: its grid, its answers, its sentences, and what it refuses."""

from dataclasses import replace
from pathlib import Path

import pytest

from orchestration.cli import main
from orchestration.config import RunPlan, load_plan
from orchestration.errors import ConfigError
from orchestration.planner.answer import Answer
from orchestration.planner.grid import cheapest, combinations, fastest
from orchestration.planner.table import sentences

RATES = (
    "plan.rates.decode={1:40,64:1600}",
    "plan.rates.lengths.mean=20",
    "plan.rates.learner_tokens_per_s=4000",
    "plan.rates.verdict_latency_s=0.1",
)


@pytest.fixture(scope="module")
def plan() -> RunPlan:
    return load_plan(["experiment=quickstart", *RATES])


def answer(**changes) -> Answer:
    plain = {
        "workers": 1,
        "ranks": 1,
        "staleness": 1,
        "drafts": 0,
        "gpus": 2,
        "steps_per_hour": 100.0,
        "tokens_per_s": 1000.0,
        "rollout_utilisation": 0.9,
        "learner_utilisation": 0.5,
        "verifier_utilisation": 0.0,
        "mean_age": 1.0,
        "max_age": 1,
        "hours": 10.0,
    }
    return Answer(**{**plain, **changes})


def test_the_grid_starts_from_what_the_run_says(plan: RunPlan):
    """1, 2 and 4 times its workers, 1 and 2 times its ranks, its staleness, one more and 0; it has no drafts."""
    found = combinations(plan)
    assert {one.workers for one in found} == {1, 2, 4}
    assert {one.ranks for one in found} == {1, 2}
    assert {one.staleness for one in found} == {0, 1, 2}
    assert not any(one.speculation for one in found)


def test_the_budget_of_gpus_leaves_out_what_needs_more(plan: RunPlan):
    """Three GPUs: 1 + 1, 1 + 2 and 2 + 1; and engines of two GPUs each leave only 1 + 1."""
    asked = replace(plan, plan=replace(plan.plan, gpus=3, staleness=(0,)))
    assert [(one.workers, one.ranks) for one in combinations(asked)] == [(1, 1), (1, 2), (2, 1)]
    wide = replace(asked, rollout=replace(asked.rollout, tensor_parallel=2))
    assert [(one.workers, one.ranks) for one in combinations(wide)] == [(1, 1)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"speculation": (True,)}, "plan.speculation asks for speculation, and speculative.method=none"),
        ({"gpus": 2, "workers": (4,)}, "fits into plan.gpus=2"),
    ],
)
def test_an_impossible_grid_is_refused(plan: RunPlan, changes: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        combinations(replace(plan, plan=replace(plan.plan, **changes)))


def test_fastest_and_cheapest_prefer_less_when_it_costs_next_to_nothing():
    """Within 2 % of the fewest hours the fewest GPU-hours count, and then the least staleness."""
    wasteful, frugal = answer(hours=9.9, gpus=8), answer(hours=10.0, gpus=4)
    fresher = answer(hours=10.0, gpus=4, staleness=0)
    slow = answer(hours=15.0, gpus=2)
    assert fastest([wasteful, frugal, fresher, slow]) is fresher
    assert cheapest([wasteful, frugal, fresher, slow]) is slow


def test_the_sentences_say_what_pays():
    """The fastest with drafts, 1.25 times the steps of the same without, and its engines what is waited for."""
    with_drafts = answer(drafts=3, hours=8.0, steps_per_hour=125.0)
    said = sentences([answer(), answer(staleness=0, hours=14.0, steps_per_hour=71.0), with_drafts])
    assert said[0].startswith("fastest: rollout.workers=1 learner.ranks=1 run.max_staleness=1, 3 drafts: 8 hours")
    assert any("speculation pays there: 1.25 times" in one for one in said)
    assert "rollout engines, busy 90%" in said[-1]


def test_the_command_prints_a_table_and_draws_a_picture(tmp_path: Path, capfd: pytest.CaptureFixture):
    """With rates on the command line alone; every combination is a row."""
    picture = tmp_path / "plan.png"
    code = main(
        [
            *("plan", "experiment=quickstart", *RATES, "plan.steps=8", "eval.every=0", "plan.workers=[1,2]"),
            f"plan.picture={picture}",
        ]
    )
    assert code == 0
    out = capfd.readouterr().out
    assert "80 steps, simulated" in out
    assert "fastest: rollout.workers=" in out
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=0", "plan.rates.decode is not set: calibrate with from="),
        ("plan.rates.decode={1:40}", "needs at least two entries"),
        ("plan.rates.decode={1:40,64:6400}", "a decode step gets shorter with more responses"),
        ("plan.rates.lengths.mean=0", "at least 1 token"),
        ("plan.rates.transfer_s=-1", "plan.rates.transfer_s is at least 0 seconds"),
        ("plan.workers=[0]", "plan.workers is a list of numbers, each at least 1"),
        ("from=nowhere", "nowhere is not a run folder"),
    ],
)
def test_what_cannot_be_is_one_sentence(override: str, message: str, capfd: pytest.CaptureFixture):
    """And exit code 2."""
    assert main(["plan", "experiment=quickstart", override]) == 2
    assert message in capfd.readouterr().err
