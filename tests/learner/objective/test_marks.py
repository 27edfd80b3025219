import dataclasses

import torch

from learner.objective import Outcomes
from learner.objective.marks import Right, RightFraction


def outcomes(rewards) -> Outcomes:
    count = len(rewards)
    return Outcomes(
        rewards=torch.tensor(rewards, dtype=torch.float64),
        unshaped=torch.tensor(rewards, dtype=torch.float64),
        groups=torch.zeros(count, dtype=torch.int64),
        lengths=torch.ones(count, dtype=torch.int64),
    )


def test_who_is_right_and_how_many_are_by_hand():
    """Above .05, strictly; the fraction is of the whole batch, for groups of one and of all right as well."""
    assert Right()(outcomes([0.0, 0.05, 0.06, 1.0])).tolist() == [0.0, 0.0, 1.0, 1.0]
    assert RightFraction()(outcomes([0.0, 0.05, 0.06, 1.0])).tolist() == [0.5] * 4
    assert RightFraction()(outcomes([1.0])).tolist() == [1.0]
    assert RightFraction()(outcomes([0.0, 0.0])).tolist() == [0.0, 0.0]


def test_the_verifiers_own_reward_may_be_looked_at():
    """Shaping took .5 from a right answer and gave .2 to a wrong one."""
    shaped = dataclasses.replace(outcomes([0.5, 0.2]), unshaped=torch.tensor([1.0, 0.0], dtype=torch.float64))
    assert Right(above=0.99, verified=True)(shaped).tolist() == [1.0, 0.0]
    assert Right(above=0.1)(shaped).tolist() == [1.0, 1.0]
