import dataclasses

import pytest
import torch

from learner.objective import Outcomes
from learner.objective.advantage import BatchNormalised, GroupMean, LeaveOneOut, Signed, TokenGroupMean


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


def test_paraphrases_are_compared_with_their_own_kind():
    """PS-GRPO: within a prompt of a group; the same prompt in another group is another; alone there is nothing."""
    given = dataclasses.replace(
        outcomes([1.0, 0.2, 0.5, 0.0, 0.9, 0.3, 1.0], [2, 2, 2, 2, 2, 5, 5]),
        prompts=torch.tensor([0, 1, 0, 1, 3, 0, 0]),
    )
    found = GroupMean(within="prompt")(given).tolist()
    for pair in ((0, 2), (1, 3), (5, 6)):
        values = [given.rewards[i].item() for i in pair]
        mean, deviation = sum(values) / 2, abs(values[0] - values[1]) / 2**0.5
        expected = [(value - mean) / (deviation + 1e-6) for value in values]
        assert [found[i] for i in pair] == pytest.approx(expected)
    assert found[4] == 0.0
    one_prompt = dataclasses.replace(given, prompts=given.groups)
    assert torch.equal(GroupMean(within="prompt")(one_prompt), GroupMean()(given))
    with pytest.raises(ValueError, match=r"GroupMean.within is 'group' or 'prompt', got 'batch'"):
        GroupMean(within="batch")


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


def test_leaving_a_sample_out_by_hand():
    """Rewards 3 1 2: 3 - 1.5, 1 - 2.5, 2 - 2; a group of one has 0."""
    assert LeaveOneOut()(outcomes([3, 1, 2, 9], [0, 0, 0, 1])).tolist() == pytest.approx([1.5, -1.5, 0.0, 0.0])


def test_one_scale_for_the_whole_batch_by_hand():
    """Rewards 1 0 | 4 0: centred by group .5 -.5 2 -2, deviation sqrt(8.5 / 3); or centred by the mean 1.25."""
    given = outcomes([1, 0, 4, 0], [0, 0, 1, 1])
    deviation = (8.5 / 3) ** 0.5
    expected = [value / deviation for value in (0.5, -0.5, 2.0, -2.0)]
    assert BatchNormalised(group_mean=True, epsilon=0.0)(given).tolist() == pytest.approx(expected)
    deviation = (sum((value - 1.25) ** 2 for value in (1, 0, 4, 0)) / 3) ** 0.5
    expected = [(value - 1.25) / deviation for value in (1, 0, 4, 0)]
    assert BatchNormalised(epsilon=0.0)(given).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("piece", [LeaveOneOut(), BatchNormalised(group_mean=True), TokenGroupMean()])
@pytest.mark.parametrize("rewards", [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
def test_groups_that_agree_have_no_advantage(piece, rewards):
    assert piece(outcomes(rewards, [4, 4, 4])).tolist() == [0.0] * 3
    assert piece(outcomes(rewards[:1], [4])).tolist() == [0.0]


def test_the_mean_over_tokens_against_a_loop_over_tokens():
    """Each token carries its response's reward; mean and population deviation are over the tokens of the group."""
    given = dataclasses.replace(
        outcomes([1.0, 0.0, 0.5, 2.0, 1.0], [0, 0, 0, 1, 1]), lengths=torch.tensor([7, 2, 4, 3, 3])
    )
    expected = []
    for group, members in ((0, [0, 1, 2]), (1, [3, 4])):
        tokens = [given.rewards[i].item() for i in members for _ in range(int(given.lengths[i]))]
        mean = sum(tokens) / len(tokens)
        deviation = (sum((value - mean) ** 2 for value in tokens) / len(tokens)) ** 0.5
        assert group in (0, 1)
        expected += [(given.rewards[i].item() - mean) / (deviation + 1e-6) for i in members]
    assert TokenGroupMean()(given).tolist() == pytest.approx(expected)


def test_an_extreme_group_falls_back_to_its_plain_mean():
    """One token in 101 is right: its advantage is 10, so this group, and no other, takes GroupMean."""
    given = dataclasses.replace(outcomes([1.0, 0.0, 1.0, 0.0], [0, 0, 1, 1]), lengths=torch.tensor([1, 100, 5, 5]))
    advantages = TokenGroupMean(fallback=5.0)(given)
    assert advantages[:2].tolist() == GroupMean()(given)[:2].tolist()
    assert advantages[2:].tolist() == pytest.approx([1.0, -1.0], abs=1e-5)
    assert TokenGroupMean(fallback=50.0)(given)[0].item() == pytest.approx(10.0, rel=1e-4)


def test_one_sided_advantages_by_hand():
    """Rewards 1 .25 .5 around .5 are 1 -.5 0; each mode keeps its side, and "both" is the group's mean."""
    given = outcomes([1.0, 0.25, 0.5], [0, 0, 0])
    assert Signed(mode="positive")(given).tolist() == [1.0, 0.0, 0.0]
    assert Signed(mode="negative")(given).tolist() == [0.0, -0.5, 0.0]
    assert Signed()(given).tolist() == GroupMean()(given).tolist()
    for wrong in ({"mode": "up"}, {"zero": 1.0}):
        with pytest.raises(ValueError, match=f"Signed.{next(iter(wrong))}"):
            Signed(**wrong)
