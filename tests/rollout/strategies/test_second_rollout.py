"""AEPO's second rollout: the right responses at the right temperature, and its controller in the run loop."""

import asyncio

import numpy as np
import pytest

from rollout.draw.control import EntropyStats, TargetEntropySwitch
from rollout.draw.temperature import Fixed
from rollout.messages import GroupRequest
from rollout.strategies import Circumstances, SecondRollout
from tests.rollout.strategies.fakes import FakeEngine, check_record, resources


def drawn(strategy: SecondRollout, engine: FakeEngine, **changes):
    request = GroupRequest(
        **{"group_id": "g", "prompt_ids": (1, 5), "n": 8, "max_tokens": 12, "temperature": Fixed()} | changes
    )

    async def all_of():
        return [rollout async for rollout in strategy.over(resources(engine)).generate(request)]

    return sorted(asyncio.run(all_of()), key=lambda rollout: rollout.index)


def test_the_last_quarter_has_the_second_temperature():
    """Six of eight as the run says, two at the second temperature; every one wholly the policy's."""
    engine = FakeEngine()
    rollouts = drawn(SecondRollout(), engine, second_temperature=Fixed(temperature=1.2))
    assert [np.unique(rollout.temperatures).tolist() for rollout in rollouts] == [[1.0]] * 6 + [[np.float32(1.2)]] * 2
    assert [(rollout.group_id, rollout.index) for rollout in rollouts] == [("g", i) for i in range(8)]
    for rollout in rollouts:
        assert rollout.policy_drawn is None
        check_record(rollout, engine)


def test_without_a_second_temperature_all_are_alike():
    """A request that carries none, such as an evaluation's, is drawn as it says."""
    rollouts = drawn(SecondRollout(), FakeEngine())
    assert {temperature for rollout in rollouts for temperature in rollout.temperatures} == {1.0}


def test_the_switch_is_the_controller_of_the_draw():
    """Its default is AEPO's switch with the release's constants: hot below 0.5 nats, cool above."""
    second = SecondRollout().second
    assert isinstance(second, TargetEntropySwitch)
    found = []
    for mean in (0.4, 0.6):
        second.observe(EntropyStats(mean=mean, drawn=mean))
        found.append(second.policy().temperature)
    assert found == [1.2, 0.8]


@pytest.mark.parametrize(("share", "group_size"), [(0.1, 4), (0.9, 4)])
def test_both_rollouts_want_responses(share, group_size):
    """A share that rounds to nobody or everybody is refused with the two knobs."""
    run = Circumstances(group_size=group_size, max_tokens=8, learned_temperature=False, plain_draw=True)
    with pytest.raises(ValueError, match=r"change strategy.share or run.group_size"):
        SecondRollout(share=share).check(run)


@pytest.mark.parametrize("share", [0.0, 1.0, float("nan")])
def test_a_share_is_a_fraction(share):
    """0, 1 and NaN are none."""
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        SecondRollout(share=share)
