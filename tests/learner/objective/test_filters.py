import itertools
import statistics

import pytest
import torch

from learner.objective import Outcomes
from learner.objective.filters import MixedGroupsOnly, WidestAdvantages, widest


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


@pytest.mark.parametrize("count", [1, 2, 5, 11, 12])
def test_the_widest_subset_is_that_of_brute_force(count):
    """Of every subset of that size none has a larger variance."""
    for seed in range(5):
        values = torch.randn(12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        chosen = widest(values, count)
        assert len(set(chosen.tolist())) == count
        best = max(statistics.pvariance(subset) for subset in itertools.combinations(values.tolist(), count))
        assert statistics.pvariance(values[chosen].tolist()) == pytest.approx(best)


def test_groups_first_and_then_the_batch_by_hand():
    """Two of each group, then half of those four; a group that agrees goes in the second stage."""
    given = Outcomes(
        rewards=torch.zeros(8, dtype=torch.float64),
        unshaped=torch.zeros(8, dtype=torch.float64),
        groups=torch.tensor([0, 1, 0, 1, 0, 1, 0, 1]),
        lengths=torch.ones(8, dtype=torch.int64),
        advantages=torch.tensor([1.5, 0.0, -0.5, 0.0, -0.9, 0.0, -0.1, 0.0], dtype=torch.float64),
    )
    first = WidestAdvantages(per_group=2, fraction=1.0)(given)
    assert first.sum() == 4
    assert first[[0, 4]].all()
    assert WidestAdvantages(per_group=2, fraction=0.5)(given).nonzero()[:, 0].tolist() == [0, 4]
    assert WidestAdvantages(per_group=99, fraction=1.0)(given).all()
    for wrong in ({"per_group": 0}, {"fraction": 0.0}):
        with pytest.raises(ValueError, match="WidestAdvantages"):
            WidestAdvantages(**wrong)
