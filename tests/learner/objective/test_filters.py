import torch

from learner.objective import Outcomes
from learner.objective.filters import MixedGroupsOnly


def test_only_groups_that_disagree_stay():
    """All-right, all-wrong and single-sample groups are dropped whole; negative rewards are rewards too."""
    given = Outcomes(
        rewards=torch.arange(11, dtype=torch.float64),  # shaping told all of them apart
        unshaped=torch.tensor([1, 1, 0, 0, 1, 0, -1, -1, -1, -0.5, 0.7], dtype=torch.float64),
        groups=torch.tensor([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5]),
        lengths=torch.ones(11, dtype=torch.int64),
    )
    expected = [False] * 4 + [True] * 2 + [False] * 2 + [True] * 2 + [False]
    assert MixedGroupsOnly()(given).tolist() == expected
