"""Expected tokens, costs and the choice of the draft length: by hand, by simulation, and as properties."""

import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.draw.speculation import (
    AcceptanceMeter,
    CostModel,
    DraftLengthChooser,
    best_length,
    break_even,
    expected_tokens,
)

RATES = st.lists(st.floats(0.0, 1.0), max_size=6)
# A target that costs 10 ms until 16 rows and then 0.5 ms a row; a drafter of 1 ms.
COST = CostModel(target={1: 0.010, 16: 0.010, 80: 0.042}, draft={1: 0.001}, overhead=0.001)


def test_expected_tokens_by_hand():
    """1 + 0.8 + 0.8 * 0.5 + 0.8 * 0.5 * 0.25; and the geometric series for equal acceptance."""
    assert expected_tokens([]) == 1.0
    assert expected_tokens([0.8, 0.5, 0.25]) == pytest.approx(2.3)
    assert expected_tokens([0.7] * 4) == pytest.approx((1 - 0.7**5) / 0.3)


def test_expected_tokens_is_the_mean_of_a_simulation():
    """200 000 steps of accept-until-rejected, to 5 standard errors."""
    rates, chance = [0.9, 0.6, 0.3], random.Random(0)
    emitted = []
    for _ in range(200_000):
        passed = 0
        while passed < len(rates) and chance.random() < rates[passed]:
            passed += 1
        emitted.append(passed + 1)
    mean = sum(emitted) / len(emitted)
    spread = math.sqrt(sum((value - mean) ** 2 for value in emitted) / len(emitted))
    assert abs(mean - expected_tokens(rates)) < 5 * spread / math.sqrt(len(emitted))


@given(RATES, st.floats(0.0, 1.0))
def test_one_more_draft_never_lowers_the_expected_tokens(rates, more):
    """Between 1 and K + 1, rising with K and with every acceptance."""
    value = expected_tokens(rates)
    assert 1.0 <= value <= len(rates) + 1
    assert expected_tokens([*rates, more]) >= value
    assert expected_tokens([min(1.0, rate + 0.1) for rate in rates]) >= value


def test_acceptance_by_position_by_hand():
    """80 of 100 first drafts pass and 20 of the 80 second ones judged; the third is believed to be like the second."""
    meter = AcceptanceMeter(half_life=1e12)
    meter.observe([100_000, 80_000], [80_000, 20_000])
    assert meter.conditional(3) == pytest.approx([0.8, 0.25, 0.25], abs=1e-4)


def test_requests_with_fewer_drafts_are_not_counted_as_rejections():
    """1000 first drafts, 900 pass, but only 300 of those had a second one, of which 150 passed: a_2 is 0.5."""
    meter = AcceptanceMeter(half_life=1e12)
    meter.observe([1000, 300], [900, 150])
    assert meter.conditional(2) == pytest.approx([0.9, 0.5], abs=2e-3)


def test_nothing_measured_is_believed_to_be_a_half_and_old_steps_fade():
    """The prior; then after one half-life the old acceptance weighs a half."""
    meter = AcceptanceMeter(half_life=1000)
    assert meter.conditional(2) == [0.5, 0.5]
    meter.observe([1000], [1000])
    meter.observe([1000], [0])
    assert meter.conditional(1)[0] == pytest.approx(500 / 1500, abs=1e-3)


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(0, 1), st.floats(0, 1)), max_size=8))
def test_acceptance_stays_a_probability_and_survives_its_state(steps):
    """Whatever was counted; and a meter loaded from JSON answers the same."""
    meter, resumed = AcceptanceMeter(half_life=30), AcceptanceMeter(half_life=30)
    for drafted, first, second in steps:
        passed = int(drafted * first)
        meter.observe([drafted, passed], [passed, int(passed * second)])
    assert all(0.0 <= value <= 1.0 for value in meter.conditional(4))
    resumed.load(json.loads(json.dumps(meter.state())))
    assert resumed.conditional(4) == meter.conditional(4)


def test_step_seconds_by_hand():
    """Constant below the first entry, linear in between, the last slope beyond; drafts and overhead only with K > 0."""
    assert COST.step_s(1, 0) == pytest.approx(0.010)
    assert COST.step_s(12, 3) == pytest.approx(0.010 + 0.0005 * (48 - 16) + 3 * 0.001 + 0.001)
    assert COST.step_s(160, 0) == pytest.approx(0.042 + 0.0005 * 80)


def test_the_best_length_and_the_break_even_by_hand():
    """At 1 request steps cost 10, 12, 13 and 14 ms; at 64 requests every drafted row costs 0.5 ms and K = 0 wins."""
    rates = [0.9, 0.8, 0.7]
    by_hand = {0: 1 / 10, 1: 1.9 / 12, 2: 2.62 / 13, 3: 3.124 / 14}
    assert best_length(1, rates, COST) == max(by_hand, key=by_hand.get) == 3
    assert best_length(1, [0.9, 0.1, 0.1], COST) == 1
    assert best_length(64, rates, COST) == 0
    assert best_length(1, [0.1], COST) == 0
    border = break_even(rates, COST, 256)
    assert COST.rate(border, rates) <= COST.rate(border, ())
    assert COST.rate(border - 1, rates) > COST.rate(border - 1, ())
    assert break_even([1.0], CostModel(target={1: 1.0}, draft={1: 0.0}), 64) is None


@given(RATES.filter(len), st.integers(1, 300))
def test_no_length_beats_the_best_one(rates, requests):
    """Including no speculation at all; and useless drafts are never made."""
    best = best_length(requests, rates, COST)
    assert all(COST.rate(requests, rates[:best]) >= COST.rate(requests, rates[:k]) for k in range(len(rates) + 1))
    assert best_length(requests, [0.0] * len(rates), COST) == 0


def meter_of(*rates: float) -> AcceptanceMeter:
    meter, passed = AcceptanceMeter(half_life=1e12), [1_000_000]
    for rate in rates:
        passed.append(int(passed[-1] * rate))
    meter.observe(passed[:-1], passed[1:])
    return meter


def test_a_change_waits_for_patience_and_one_exception_resets_it():
    """With patience 3: three bad decisions in a row switch speculation off, two and a good one do not."""
    good, bad = meter_of(0.9, 0.9), meter_of(0.05, 0.05)
    chooser = DraftLengthChooser(largest=2, cost=COST, patience=3, probe_every=0)
    assert [chooser.decide(1, meter) for meter in (bad, bad, good, bad, bad, bad)] == [2, 2, 2, 2, 2, 0]
    assert [chooser.decide(1, meter) for meter in (good, good, good)] == [0, 0, 2]


def test_a_gain_within_the_margin_changes_nothing():
    """Two lengths within 5 % of each other: it stays where it is, from either side."""
    cost = CostModel(target={1: 1.0}, draft={1: 0.5})
    nearly = meter_of(0.52)  # 1.52 / 1.5 = 1.013
    chooser = DraftLengthChooser(largest=1, cost=cost, margin=0.05, patience=1, probe_every=0)
    assert {chooser.decide(1, nearly) for _ in range(5)} == {1}
    chooser.length = 0
    assert {chooser.decide(1, nearly) for _ in range(5)} == {0}


@given(st.lists(st.integers(1, 200), min_size=1, max_size=80), st.floats(0.0, 1.0))
def test_it_never_flips_faster_than_its_patience(batches, rate):
    """Between two changes lie at least `patience` decisions, whatever the batch does."""
    chooser = DraftLengthChooser(largest=3, cost=COST, patience=4, probe_every=0)
    lengths = [chooser.length, *(chooser.decide(requests, meter_of(rate, rate, rate)) for requests in batches)]
    changes = [i for i in range(1, len(lengths)) if lengths[i] != lengths[i - 1]]
    assert all(b - a >= 4 for a, b in zip([0, *changes], changes, strict=False))


def test_a_batch_that_empties_brings_speculation_back():
    """Off at 64 requests, on again at 1: break-even by batch size alone."""
    chooser, meter = DraftLengthChooser(largest=3, cost=COST, patience=2, probe_every=0), meter_of(0.9, 0.8, 0.7)
    assert [chooser.decide(64, meter) for _ in range(3)] == [3, 0, 0]
    assert [chooser.decide(1, meter) for _ in range(3)] == [0, 3, 3]


def test_while_off_it_probes_now_and_then():
    """Every 4 decisions one with a single draft, whose acceptance is the only way to notice a better drafter."""
    chooser, bad = DraftLengthChooser(largest=2, cost=COST, patience=2, probe_every=4), meter_of(0.0, 0.0)
    assert [chooser.decide(1, bad) for _ in range(10)] == [2, 0, 0, 0, 1, 0, 0, 0, 1, 0]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: CostModel(target={}, draft={1: 0.0}), "CostModel.target maps rows"),
        (lambda: CostModel(target={1: 0.0}, draft={1: 0.0}), "a step of the target takes time"),
        (lambda: CostModel(target={1: 1.0}, draft={1: math.nan}), "CostModel.draft maps rows"),
        (lambda: DraftLengthChooser(largest=0, cost=COST), "largest >= 1"),
        (lambda: AcceptanceMeter().observe([3], [4]), "accepted drafts cannot exceed judged ones"),
        (lambda: AcceptanceMeter().observe([3, 3], [2, 1]), r"got \[2, 1\] of \[3, 3\]"),
        (lambda: AcceptanceMeter(half_life=0.0), "half_life"),
    ],
)
def test_parameters_that_cannot_be_are_refused(make, sentence):
    """One sentence that names field, rule and value."""
    with pytest.raises(ValueError, match=sentence):
        make()
