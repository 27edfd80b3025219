"""Temperature policies: HAPO's log-pivot and its statistics by hand, and what each policy looks at."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rollout.draw.temperature import (
    POLICIES,
    EntropyLinear,
    Fixed,
    Learned,
    LogPivot,
    PivotStatistics,
    from_wire,
    to_wire,
)

ENTROPIES = st.lists(st.floats(0.0, 12.0), min_size=1, max_size=60)


def slow_statistics(entropies: list[float], quantile: float) -> tuple[float, float, float, float]:
    x = sorted(math.log(max(h, 1e-8)) for h in entropies)
    pivot = x[round(quantile * (len(x) - 1))]
    rms = math.sqrt(sum((value - pivot) ** 2 for value in x) / len(x))
    if rms == 0:
        return pivot, 0.0, 1.0, 1.0
    h = [(value - pivot) / rms for value in x]
    return pivot, rms, max(h) if max(h) > 0 else 1.0, -min(h) if min(h) < 0 else 1.0


def test_pivot_statistics_by_hand():
    """Five log-entropies -2..2: the 0.8 quantile is 1, about it the squares are 9 4 1 0 1."""
    found = PivotStatistics.of(torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]).exp(), quantile=0.8)
    rms = math.sqrt(15 / 5)
    assert (found.pivot, found.rms) == pytest.approx((1.0, rms))
    assert (found.scale_positive, found.scale_negative) == pytest.approx((1 / rms, 3 / rms))


@given(ENTROPIES, st.floats(0.0, 1.0))
def test_pivot_statistics_agree_with_a_slow_loop(entropies, quantile):
    """Pivot, rms about the pivot and both scales, for any batch and quantile."""
    found = PivotStatistics.of(torch.tensor(entropies, dtype=torch.float64), quantile)
    expected = slow_statistics(entropies, quantile)
    assert (found.pivot, found.rms, found.scale_positive, found.scale_negative) == pytest.approx(expected, rel=1e-9)


@given(ENTROPIES)
def test_the_pivot_is_torchs_nearest_quantile(entropies):
    """The same rank as torch.quantile(interpolation="nearest"), which cannot take more than 2**24 tokens."""
    x = torch.tensor(entropies, dtype=torch.float64)
    expected = torch.quantile(x.clamp_min(1e-8).log(), 0.8, interpolation="nearest").item()
    assert PivotStatistics.of(x, 0.8).pivot == pytest.approx(expected)


def test_log_pivot_by_hand():
    """Pivot 0, rms 2: ln H = 4 is h = 2, half of scale 4; ln H = -2 is h = -1, a third of scale 3; far ones clip."""
    policy = LogPivot(pivot=0.0, rms=2.0, scale_positive=4.0, scale_negative=3.0, base=2.0, swing=0.1)
    entropies = torch.tensor([4.0, -2.0, 0.0, 50.0, -8.0]).exp()
    assert policy(entropies).tolist() == pytest.approx([2.1, 2.0 - 0.2 / 3, 2.0, 2.2, 2.0 - 0.2])


def test_the_released_sign_heats_the_coldest_token():
    """The defect of the released code, behind its flag: below the pivot temperatures rise as well."""
    policy = LogPivot(pivot=0.0, rms=1.0, scale_positive=2.0, scale_negative=6.0, swing=0.05, released_sign=True)
    assert policy(torch.tensor([-6.0, -3.0, 0.0, 2.0]).exp()).tolist() == pytest.approx([1.05, 1.025, 1.0, 1.05])


@given(ENTROPIES)
def test_normalised_entropy_lies_in_minus_one_to_one_and_below_zero_below_the_pivot(entropies):
    """HAPO's invariant on the batch the statistics came from: T within the swing, T <= base iff H <= pivot."""
    x = torch.tensor(entropies, dtype=torch.float64)
    statistics = PivotStatistics.of(x)
    temperatures = LogPivot(**vars(statistics), swing=0.5)(x)
    assert ((temperatures >= 0.5 - 1e-9) & (temperatures <= 1.5 + 1e-9)).all()
    if statistics.rms > 1e-6:
        below = x.clamp_min(1e-8).log() <= statistics.pivot
        assert ((temperatures <= 1.0) == below).all()
        assert temperatures.max() == pytest.approx(1.5) or not (~below).any()


def test_equal_entropies_leave_the_base_temperature():
    """A batch without spread gives statistics that change nothing, not NaN."""
    statistics = PivotStatistics.of(torch.full((7,), 0.3))
    assert LogPivot(**vars(statistics), base=0.9)(torch.tensor([0.0, 0.3, 5.0])).tolist() == pytest.approx([0.9] * 3)


@pytest.mark.parametrize(
    ("policy", "needs"),
    [
        (Fixed(temperature=0.7), set()),
        (EntropyLinear(), {"entropy"}),
        (LogPivot(pivot=-1.0, rms=0.5, scale_positive=2.0, scale_negative=1.0), {"entropy"}),
        (Learned(tau_max=2.0), {"hidden"}),
    ],
)
def test_a_policy_survives_the_wire_and_says_what_it_needs(policy, needs):
    """Plain values give the same policy back; `needs` lets the sampler skip what is not read."""
    wire = to_wire(policy)
    assert all(isinstance(value, str | float | int | bool) for value in wire.values())
    assert from_wire(wire) == policy
    assert policy.needs == needs
    assert POLICIES[policy.name] is type(policy)


def test_fixed_does_not_read_the_entropies():
    """What `needs` promises: garbage in, the same temperature out."""
    assert Fixed(temperature=0.7)(torch.tensor([math.nan, -1.0])).tolist() == pytest.approx([0.7, 0.7])


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: LogPivot(pivot=math.nan, rms=1.0, scale_positive=1.0, scale_negative=1.0), "pivot and rms are finite"),
        (lambda: LogPivot(pivot=0.0, rms=1.0, scale_positive=0.0, scale_negative=1.0), "scale_positive is a finite"),
        (lambda: LogPivot(pivot=0.0, rms=1.0, scale_positive=1.0, scale_negative=1.0, swing=1.0), "LogPivot.swing"),
        (lambda: EntropyLinear(entropy_high=math.inf), "must lie below"),
        (lambda: PivotStatistics.of(torch.empty(0)), "without response tokens"),
        (lambda: Learned(tau_min=2.0), "0 < tau_min < tau_max"),
        (
            lambda: from_wire({"name": "fixed", "heat": 1.0}),
            "policy 'fixed' has no parameter 'heat'; it has temperature",
        ),
        (lambda: from_wire({"name": "log_pivot"}), "cannot be built of {}"),
    ],
)
def test_parameters_that_cannot_be_are_refused(make, sentence):
    """One sentence that names field, rule and value."""
    with pytest.raises(ValueError, match=sentence):
        make()
