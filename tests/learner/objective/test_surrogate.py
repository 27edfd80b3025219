import math

import pytest
import torch

from learner.objective.surrogate import Clipped

# ratio, advantage, loss, d loss / d lp, clipped: for eps_lo .2, eps_hi .3, dual 3
TABLE = [
    (1.0, 2.0, -2.0, -2.0, False),
    (1.2, 2.0, -2.4, -2.4, False),
    (1.5, 2.0, -2.6, 0.0, True),  # a good token has been raised enough
    (0.5, 2.0, -1.0, -1.0, False),  # a good token that fell may always come back
    (0.9, -1.0, 0.9, 0.9, False),
    (0.5, -1.0, 0.8, 0.0, True),  # a bad token has been lowered enough
    (1.5, -1.0, 1.5, 1.5, False),
    (4.0, -1.0, 3.0, 0.0, True),  # dual clip
    (4.0, 0.0, 0.0, 0.0, False),
]


@pytest.mark.parametrize(("ratio", "advantage", "loss", "slope", "clipped"), TABLE)
def test_value_slope_and_clip_by_hand(ratio, advantage, loss, slope, clipped, token_stats):
    """Value, gradient and clip metric of each branch."""
    lp = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    values, measures = Clipped(eps_lo=0.2, eps_hi=0.3, dual=3.0)(token_stats([[1]], lp=lp, advantage=[[advantage]]))
    values.sum().backward()
    assert values.item() == pytest.approx(loss)
    assert lp.grad.item() == pytest.approx(slope)
    assert bool(measures["train/clip_fraction"].value) == clipped


def test_without_dual_clip_a_bad_token_is_unbounded(token_stats):
    values, _ = Clipped()(token_stats([[1]], lp=[[math.log(40.0)]], advantage=[[-1.0]]))
    assert values.item() == pytest.approx(40.0)


@pytest.mark.parametrize("wrong", [{"eps_lo": -0.1}, {"eps_lo": 1.1}, {"eps_hi": -0.1}, {"dual": 1.0}])
def test_impossible_ranges_are_refused(wrong):
    with pytest.raises(ValueError, match="Clipped"):
        Clipped(**wrong)
