import pytest

from learner.objective import Objective
from learner.objective.advantage import GroupMean, Signed
from learner.objective.aggregate import TokenMean
from learner.objective.entropy_target import (
    EntropyBand,
    EntropyIntegrator,
    FirstMeasurement,
    LinearKnobs,
    TemperatureContrast,
)
from learner.objective.select import EntropyQuantile
from learner.objective.surrogate import Clipped
from learner.objective.weights import SignLean


def run(controller, entropies):
    """The knobs of each step, and those after the last."""
    state, seen = controller.start(), []
    for entropy in entropies:
        seen.append(controller.knobs(state))
        state = controller.update(state, {"entropy/mean": entropy})
    return [*seen, controller.knobs(state)]


def test_the_band_narrows_and_switches_sides_by_hand():
    """.6-.7 to .4-.5 over 4 steps: .64 lies inside at first, then above; .3 lies below."""
    seen = run(EntropyBand(steps=4), [0.64, 0.64, 0.3, 0.45, 0.45])
    assert [step["advantage.mode"] for step in seen] == ["both", "both", "positive", "negative", "both", "both"]


def test_the_integrator_against_a_loop():
    """lean = I + (H - H*), then I += .01 (H - H*); nothing leans before anything is measured."""
    entropies = [0.9, 0.7, 0.2, 0.5]
    seen = run(EntropyIntegrator(target=0.5, proportional=1.0, integral=0.01), entropies)
    total, expected = 0.0, [0.0]
    for entropy in entropies:
        expected.append(total + entropy - 0.5)
        total += 0.01 * (entropy - 0.5)
    assert [step["weights.lean.lean"] for step in seen] == pytest.approx(expected)


def test_the_first_measurement_stays():
    """Steps without the metric, or in which nothing was measured (0), are waited through; afterwards nothing moves."""
    controller = FirstMeasurement(metric="m", knob="a.b")
    state, seen = controller.start(), []
    for metrics in ({}, {"m": 0.0}, {"m": 0.7}, {"m": 0.1}):
        state = controller.update(state, metrics)
        seen.append(controller.knobs(state))
    assert seen == [{"a.b": None}, {"a.b": None}, {"a.b": 0.7}, {"a.b": 0.7}]


def test_the_contrast_by_hand():
    """No strength before anything is measured; hot at and below .5, cool above; never stronger than .1."""
    seen = run(TemperatureContrast(), [0.5, 0.45, 0.9])
    expected = [(1.2, 0.0), (1.2, 0.0), (1.2, 0.05), (0.8, 0.1)]
    for knobs, (temperature, strength) in zip(seen, expected, strict=True):
        assert knobs["credit.contrast.temperature"] == temperature
        assert knobs["credit.contrast.strength"] == pytest.approx(strength)


def test_lines_by_hand():
    seen = run(LinearKnobs(steps=2, start_at={"a.b": 1.0}, end_at={"a.b": 3.0}), [0.0, 0.0, 0.0])
    assert [step["a.b"] for step in seen] == [1.0, 2.0, 3.0, 3.0]


def test_the_knobs_exist():
    """Each default knob is one the composed objective has, and turning it makes a new objective."""
    objective = Objective(
        advantage=Signed(),
        surrogate=Clipped(),
        aggregate=TokenMean(),
        weights={"lean": SignLean()},
        select={"forks": EntropyQuantile()},
        controllers={
            "band": EntropyBand(steps=1),
            "entropy": EntropyIntegrator(),
            "line": LinearKnobs(steps=1, start_at={"select.forks.keep": 0.5}, end_at={"select.forks.keep": 1.0}),
        },
    )
    states = {"band": {"step": 9.0, "entropy": 5.0}, "entropy": {"integral": 0.0, "error": 0.25}, "line": {"step": 0.0}}
    turned = objective.controlled(states)
    assert turned.advantage.mode == "positive"
    assert turned.weights["lean"].lean == 0.25
    assert turned.select["forks"].keep == 0.5
    with pytest.raises(ValueError, match="no knob 'mode' in GroupMean"):
        Objective(
            advantage=GroupMean(),
            surrogate=Clipped(),
            aggregate=TokenMean(),
            controllers={"band": EntropyBand(steps=1)},
        ).controlled(states)


def test_impossible_controllers_are_refused():
    for make in (
        lambda: EntropyBand(steps=0),
        lambda: EntropyBand(steps=1, low_start=0.9),
        lambda: LinearKnobs(steps=0, start_at={}, end_at={}),
        lambda: LinearKnobs(steps=1, start_at={"a": 1.0}, end_at={}),
        lambda: TemperatureContrast(low=1.3),
    ):
        with pytest.raises(ValueError, match=r"EntropyBand|LinearKnobs|TemperatureContrast"):
            make()
