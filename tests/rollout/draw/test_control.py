"""Controllers: each one's rule by hand, state through a checkpoint, and a loop that really settles."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from orchestration.config import build
from rollout.draw.control import (
    Constant,
    EntropyServo,
    EntropyStats,
    LogPivotFromBatch,
    Scheduled,
    TargetEntropySwitch,
    controller_of,
)
from rollout.draw.distribution import entropy
from rollout.draw.temperature import EntropyLinear, Fixed, LogPivot, PivotStatistics, from_wire, to_wire

CONF = Path(__file__).parents[3] / "conf"


def stats(mean: float = 1.0, drawn: float = 1.0, pivot: PivotStatistics | None = None) -> EntropyStats:
    return EntropyStats(mean=mean, drawn=drawn, pivot=pivot)


def temperatures(controller, observed: list[EntropyStats]) -> list[float]:
    found = [controller.policy().temperature]
    for one in observed:
        controller.observe(one)
        found.append(controller.policy().temperature)
    return found


def test_stats_by_hand():
    """Means of the recorded columns; `drawn` is minus the mean recorded logprob."""
    found = EntropyStats.of(torch.tensor([1.0, 3.0]), torch.tensor([-0.5, -2.5]), quantile=1.0)
    assert (found.mean, found.drawn) == pytest.approx((2.0, 1.5))
    assert found.pivot == PivotStatistics.of(torch.tensor([1.0, 3.0]), 1.0)
    assert EntropyStats.of(torch.tensor([1.0]), torch.tensor([-1.0])).pivot is None


def test_minus_the_logprob_estimates_the_entropy_drawn_from():
    """Over 200 000 draws at T = 0.7, to 5 standard errors."""
    logits = torch.tensor([2.0, 0.5, 0.0, -1.0]) / 0.7
    drawn = torch.multinomial(logits.softmax(-1), 200_000, True, generator=torch.Generator().manual_seed(0))
    logprobs = logits.log_softmax(-1)[drawn]
    error = logprobs.std().item() / math.sqrt(len(drawn))
    assert abs(EntropyStats.of(torch.ones(1), logprobs).drawn - entropy(logits).item()) < 5 * error


def test_a_plain_policy_stays_and_a_configured_controller_is_copied():
    """`temperature: fixed` keeps working; a controller of one run does not move that of the next."""
    policy = EntropyLinear()
    constant = controller_of(policy)
    constant.observe(stats())
    assert constant.policy() is policy
    assert constant == Constant(given=policy)
    configured = Scheduled(start=1.0, end=2.0, steps=1)
    controller_of(configured).observe(stats())
    assert configured.policy() == Fixed(temperature=1.0)


def test_schedules_by_hand():
    """A quarter, half and all of the way, then it stays; the cosine is at (1 - cos 45 deg) / 2 after a quarter."""
    line = Scheduled(start=1.0, end=0.6, steps=4)
    assert temperatures(line, [stats()] * 6) == pytest.approx([1.0, 0.9, 0.8, 0.7, 0.6, 0.6, 0.6])
    cosine = Scheduled(start=1.0, end=0.6, steps=4, shape="cosine")
    quarter = (1 - math.sqrt(0.5)) / 2
    expected = [1.0, 1 - 0.4 * quarter, 0.8, 0.6 + 0.4 * quarter, 0.6]
    assert temperatures(cosine, [stats()] * 4) == pytest.approx(expected)


def test_the_switch_by_hand():
    """Hot below the target, cool at and above it, `start` before anything was measured."""
    switch = TargetEntropySwitch(target=0.5)
    assert temperatures(switch, [stats(0.49), stats(0.5), stats(3.0), stats(0.0)]) == [1.0, 1.2, 0.8, 0.8, 1.2]


def test_log_pivot_is_off_at_first_and_then_follows_the_last_batch():
    """First step at `base`; afterwards the statistics of the newest batch, not of an older one."""
    controller = LogPivotFromBatch(base=0.9, swing=0.1)
    assert controller.policy() == Fixed(temperature=0.9)
    for batch in (torch.tensor([0.1, 1.0, 2.0]), torch.tensor([0.5, 0.7, 3.0, 0.01])):
        controller.observe(EntropyStats.of(batch, -batch, quantile=controller.quantile))
        expected = LogPivot(**dataclasses.asdict(PivotStatistics.of(batch, 0.8)), base=0.9, swing=0.1)
        assert controller.policy() == expected
        assert from_wire(to_wire(controller.policy())) == expected
    with pytest.raises(ValueError, match="wants the pivot"):
        controller.observe(stats())


def test_the_servo_by_hand():
    """ln T rises by gain * ln(target / drawn), at most by gain, and within the bounds."""
    servo = EntropyServo(target=1.0, gain=0.5, low=0.5, high=2.0)
    observed = [stats(drawn=math.exp(-0.2)), stats(drawn=1e-9), stats(drawn=1e-9), stats(drawn=math.exp(0.4))]
    expected = [0.0, 0.1, 0.6, math.log(2.0), math.log(2.0) - 0.2]
    assert [math.log(t) for t in temperatures(servo, observed)] == pytest.approx(expected)


@pytest.mark.parametrize("gain", [0.1, 0.2, 0.5])
def test_the_servo_settles_on_the_target(gain):
    """Around real distributions: from both sides, the tempered entropy comes within 1 % of the target and stays."""
    logits = 3.0 * torch.randn(64, 50, generator=torch.Generator().manual_seed(0))

    def drawn(temperature: float) -> float:
        return entropy(logits / temperature).mean().item()

    for target in (drawn(0.7), drawn(1.3)):
        servo = EntropyServo(target=target, gain=gain)
        path = []
        for _ in range(120):
            path.append(drawn(servo.policy().temperature))
            servo.observe(stats(drawn=path[-1]))
        assert all(abs(value / target - 1) < 0.01 for value in path[60:])


@given(st.lists(st.floats(0.0, 20.0), max_size=60), st.floats(0.01, 5.0))
def test_the_servo_stays_within_its_bounds_and_does_not_wind_up(entropies, gain):
    """Whatever it was fed, one large error the other way moves it off its bound at once."""
    servo = EntropyServo(target=1.0, gain=gain, low=0.5, high=1.5)
    for value in entropies:
        servo.observe(stats(drawn=value))
        assert 0.5 - 1e-9 <= servo.policy().temperature <= 1.5 + 1e-9
    for _ in range(500):
        servo.observe(stats(drawn=20.0))  # too random for long: it sits at `low`
    before = servo.policy().temperature
    servo.observe(stats(drawn=0.01))
    assert servo.policy().temperature > before


CONTROLLERS = [
    Scheduled(start=1.0, end=0.6, steps=4),
    TargetEntropySwitch(),
    LogPivotFromBatch(),
    EntropyServo(target=0.5),
    Constant(given=Fixed()),
]


@pytest.mark.parametrize("configured", CONTROLLERS, ids=lambda c: type(c).__name__)
def test_a_controller_continues_from_its_state(configured):
    """State through JSON: the copy answers as the original, now and after one more step; also an unused one."""
    for steps in (0, 3):
        original, resumed = controller_of(configured), controller_of(configured)
        batch = torch.rand(50, generator=torch.Generator().manual_seed(steps))
        for _ in range(steps):
            original.observe(EntropyStats.of(batch, -batch, quantile=0.8))
        resumed.load(json.loads(json.dumps(original.state())))
        assert resumed.policy() == original.policy()
        for one in (original, resumed):
            one.observe(EntropyStats.of(batch / 2, -batch, quantile=0.8))
        assert resumed.policy() == original.policy()


@pytest.mark.parametrize("file", sorted(CONF.glob("temperature/*.yaml")), ids=lambda file: file.stem)
def test_every_temperature_in_conf_is_a_controller_of_a_policy(file):
    """Each YAML builds, and gives a policy that a request can carry."""
    configured = build(object, OmegaConf.to_container(OmegaConf.load(file)), "temperature")
    policy = controller_of(configured).policy()
    assert from_wire(to_wire(policy)) == policy


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Scheduled(start=0.0, end=1.0, steps=3), "Scheduled.start is a finite number > 0"),
        (lambda: Scheduled(start=1.0, end=1.0, steps=0), "Scheduled.steps is a number"),
        (lambda: Scheduled(start=1.0, end=1.0, steps=3, shape="square"), "linear or cosine"),
        (lambda: TargetEntropySwitch(target=0.0), "target is nats > 0"),
        (lambda: TargetEntropySwitch(high=0.5), "low must not exceed high"),
        (lambda: EntropyServo(target=1.0, start=2.0), "0 < low <= start <= high"),
        (lambda: EntropyServo(target=1.0, gain=math.nan), "EntropyServo.gain"),
        (lambda: LogPivotFromBatch(quantile=1.5), "quantile lies in"),
        (lambda: LogPivotFromBatch(swing=1.5), "LogPivot.swing"),
        (lambda: EntropyStats.of(torch.empty(0), torch.empty(0)), "at least one response token"),
        (lambda: stats(drawn=math.nan), "finite nats"),
    ],
)
def test_parameters_that_cannot_be_are_refused(make, sentence):
    """One sentence that names field, rule and value."""
    with pytest.raises(ValueError, match=sentence):
        make()
