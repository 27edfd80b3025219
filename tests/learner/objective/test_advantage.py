import pytest
import torch

from learner.objective import Outcomes
from learner.objective.advantage import GroupMean


def outcomes(rewards, groups) -> Outcomes:
    return Outcomes(
        rewards=torch.tensor(rewards, dtype=torch.float64),
        unshaped=torch.zeros(len(groups), dtype=torch.float64),
        groups=torch.tensor(groups),
        lengths=torch.ones(len(groups), dtype=torch.int64),
    )


def test_a_group_by_hand():
    """Rewards 1 0 0 1 1 have mean .6 and sample deviation sqrt(1.2 / 4)."""
    given = outcomes([1, 0, 0, 1, 1], [7] * 5)
    deviation = 0.3**0.5
    expected = [0.4 / deviation, -0.6 / deviation, -0.6 / deviation, 0.4 / deviation, 0.4 / deviation]
    assert GroupMean(epsilon=0.0)(given).tolist() == pytest.approx(expected)
    assert GroupMean(divide_by_std=False)(given).tolist() == pytest.approx([0.4, -0.6, -0.6, 0.4, 0.4])


def test_interleaved_groups_do_not_mix():
    """Which samples are neighbours does not matter, only their group does."""
    mixed = GroupMean()(outcomes([1, 5, 0, 9], [3, 8, 3, 8]))
    assert mixed[[0, 2]].tolist() == GroupMean()(outcomes([1, 0], [0, 0])).tolist()
    assert mixed[[1, 3]].tolist() == GroupMean()(outcomes([5, 9], [0, 0])).tolist()


@pytest.mark.parametrize("rewards", [[1.0, 1.0, 1.0], [0.0, 0.0], [0.3]])
@pytest.mark.parametrize("divide_by_std", [True, False])
def test_a_group_that_agrees_has_no_advantage(rewards, divide_by_std):
    """All right, all wrong, or alone: there is nothing to prefer."""
    advantages = GroupMean(divide_by_std=divide_by_std)(outcomes(rewards, [4] * len(rewards)))
    assert advantages.tolist() == [0.0] * len(rewards)
