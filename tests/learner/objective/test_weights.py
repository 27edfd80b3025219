import math

import pytest
import torch

from learner.objective.weights import TruncatedImportance


def test_values_by_hand(token_stats):
    """exp(lp_old - lp_sampler), cut at the cap; the metric counts the cut ones among response tokens only."""
    stats = token_stats(
        [[1, 1, 1, 0]],
        lp_old=[[math.log(0.5), math.log(0.9), -1.0, 0.0]],
        lp_sampler=[[math.log(0.25), math.log(0.1), -1.0, -5.0]],
    )
    weight, measures = TruncatedImportance(cap=2.5)(stats)
    assert weight[0, :3].tolist() == pytest.approx([2.0, 2.5, 1.0])
    cut = measures["tis/clipped_fraction"]
    assert (cut.value.item(), cut.weight.item()) == (1.0, 3.0)


def test_absurd_ratios_stay_finite(token_stats):
    """A token the sampler all but excluded gives the cap, never inf or NaN."""
    stats = token_stats([[1, 1]], lp_old=[[0.0, -2000.0]], lp_sampler=[[-1000.0, 0.0]])
    weight, _ = TruncatedImportance()(stats)
    assert weight[0, 0] == 2.0
    assert 0.0 <= weight[0, 1] < 1e-8


def test_weights_carry_no_gradient(token_stats):
    lp_old = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    weight, _ = TruncatedImportance()(token_stats([[1]], lp_old=lp_old))
    assert not weight.requires_grad


def test_an_impossible_cap_is_refused():
    with pytest.raises(ValueError, match="ratio > 0"):
        TruncatedImportance(cap=0.0)
