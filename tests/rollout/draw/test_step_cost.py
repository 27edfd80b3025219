"""Rounds of measured steps, on a machine whose steps cost what a formula says."""

import random

import pytest

from rollout.draw.speculation import AcceptanceMeter, DraftLengthChooser
from rollout.draw.step_cost import MeasuredSteps


def step_s(requests: int, drafts: int) -> float:
    """5 ms, 1 ms a draft, and beyond 64 rows 0.1 ms a row."""
    rows = requests * (drafts + 1)
    return 0.005 + 0.001 * drafts + 0.0001 * max(0, rows - 64)


def run_round(steps: MeasuredSteps, requests: int, slow: float = 1.0) -> list[int]:
    """Serve what is wanted until nothing is; the drafts of each step."""
    made = []
    while (drafts := steps.wanted(requests)) is not None:
        steps.observe(requests, drafts, slow * step_s(requests, drafts))
        made.append(drafts)
    return made


def test_a_round_measures_no_drafts_one_and_the_most_in_turns():
    """Eight steps of each, and no K is ahead of another by more than one step."""
    steps = MeasuredSteps(largest=6, window=8)
    made = run_round(steps, 4)
    assert {drafts: made.count(drafts) for drafts in set(made)} == {0: 8, 1: 8, 6: 8}
    for end in range(len(made)):
        counts = [made[:end].count(drafts) for drafts in (0, 1, 6)]
        assert max(counts) - min(counts) <= 1


def test_between_the_measured_numbers_of_drafts_seconds_are_linear():
    """The formula is linear in K from 1 on, so K = 3 is found without ever being tried."""
    steps = MeasuredSteps(largest=6)
    run_round(steps, 100)
    for drafts in range(7):
        assert steps.step_s(100, drafts) == pytest.approx(step_s(100, drafts))


def test_disturbed_steps_do_not_count():
    """A third of the steps take ten times as long: the lower quartile is what an undisturbed one takes."""
    steps, chance = MeasuredSteps(largest=4, window=20), random.Random(0)
    while (drafts := steps.wanted(8)) is not None:
        steps.observe(8, drafts, step_s(8, drafts) * (10.0 if chance.random() < 0.33 else 1.0))
    assert steps.step_s(8, 4) == pytest.approx(step_s(8, 4))


def test_a_machine_that_gets_slower_is_measured_again():
    """After `refresh` steps a new round begins; until it is complete the old one holds."""
    steps = MeasuredSteps(largest=2, window=3, refresh=50)
    run_round(steps, 1)
    for _ in range(51):
        assert steps.wanted(1) is None
        steps.observe(1, 2, 1.0)
    assert steps.wanted(1) is not None
    assert steps.step_s(1, 0) == pytest.approx(step_s(1, 0))
    run_round(steps, 1, slow=3.0)
    assert steps.step_s(1, 0) == pytest.approx(3.0 * step_s(1, 0))


def test_where_no_step_can_be_compared_it_stops_trying():
    """New prompts come with every step: after `patience` of them the K is left alone, and nothing is known."""
    steps = MeasuredSteps(largest=2, patience=10, refresh=50)
    for _ in range(10):
        steps.observe(16, steps.wanted(16), None)
    assert steps.wanted(16) is None
    assert not steps.knows(16)
    with pytest.raises(ValueError, match="steps of 16 requests have not been measured yet"):
        steps.step_s(16, 1)


@pytest.mark.parametrize(("requests", "expected"), [(1, 6), (256, 0)])
def test_the_chooser_drafts_where_it_pays(requests, expected):
    """At 0.9 a draft: one request gets the most drafts, 256 get none, as every draft adds 256 rows."""
    steps, meter = MeasuredSteps(largest=6), AcceptanceMeter()
    run_round(steps, requests)
    meter.observe([1000, 900], [900, 810])
    chooser = DraftLengthChooser(largest=6, cost=steps)
    for _ in range(5):
        chooser.decide(requests, meter)
    assert chooser.length == expected
