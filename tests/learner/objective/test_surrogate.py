import math

import pytest
import torch

from learner.objective.surrogate import Clipped, ClippedWeight, SequenceRatio

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


def test_one_ratio_per_response_against_a_loop(token_stats):
    """GSPO: value and gradient of the geometric mean of the ratios, clipped, over trained tokens only."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 1, 1], [1, 1, 0, 0]], dtype=torch.bool)
    lp = -torch.rand(3, 4, generator=generator, dtype=torch.float64)
    moved = torch.tensor([[0.02, -0.01, 0.05, 9.0], [-0.3, 9.0, -0.2, 0.1], [0.5, 0.7, 9.0, 9.0]], dtype=torch.float64)
    advantage = torch.tensor([[1.0], [-2.0], [0.5]], dtype=torch.float64).expand(3, 4)
    lp.requires_grad_()
    stats = token_stats(mask, lp=lp, lp_old=lp.detach() - moved, advantage=advantage)
    values, measures = SequenceRatio(eps_lo=0.1, eps_hi=0.2)(stats)
    upstream = torch.rand(3, 4, generator=generator, dtype=torch.float64)
    (upstream * values)[mask].sum().backward()
    clipped = 0
    for row in range(3):
        places = [t for t in range(4) if mask[row, t]]
        ratio = math.exp(sum(moved[row, t].item() for t in places) / len(places))
        a = advantage[row, 0].item()
        free, bound = -a * ratio, -a * min(max(ratio, 0.9), 1.2)
        for t in places:
            assert values[row, t].item() == pytest.approx(max(free, bound))
            slope = free if free >= bound else 0.0
            assert lp.grad[row, t].item() == pytest.approx(upstream[row, t].item() * slope)
            clipped += bound > free
    assert clipped == 5  # the second response may not fall further, the third not rise further
    assert measures["train/clip_fraction"].value.item() == clipped


@pytest.mark.parametrize(
    ("ratio", "advantage", "weight"), [(1.0, 2.0, 1.0), (3.0, 2.0, 1.3), (0.1, -1.0, 0.1), (3.0, -1.0, 1.3)]
)
def test_a_clipped_weight_never_removes_a_gradient(ratio, advantage, weight, token_stats):
    """CISPO: the slope is -weight * A, at any ratio, and the low side is free."""
    lp = torch.tensor([[math.log(ratio) - 3.0]], dtype=torch.float64, requires_grad=True)
    stats = token_stats([[1]], lp=lp, lp_old=[[-3.0]], advantage=[[advantage]])
    values, measures = ClippedWeight(eps_lo=1.0, eps_hi=0.3)(stats)
    values.sum().backward()
    assert lp.grad.item() == pytest.approx(-weight * advantage)
    assert values.item() == pytest.approx(-weight * advantage * lp.item())
    assert measures["train/clip_fraction"].value.item() == (ratio > 1.3)


@pytest.mark.parametrize("piece", [Clipped(), SequenceRatio(), ClippedWeight()])
def test_where_nothing_moved_every_surrogate_is_the_policy_gradient(piece, token_stats):
    """At ratio 1 the slope is -A."""
    lp = torch.tensor([[-1.0, -2.0]], dtype=torch.float64, requires_grad=True)
    stats = token_stats([[1, 1]], lp=lp, lp_old=[[-1.0, -2.0]], advantage=[[0.7, 0.7]])
    piece(stats)[0].sum().backward()
    assert lp.grad[0].tolist() == pytest.approx([-0.7, -0.7])
