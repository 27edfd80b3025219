import math

import pytest
import torch

from learner.objective.reads import AnchorRatio, LogProbAt
from learner.objective.surrogate import Anchored, Clipped, ClippedWeight, SequenceRatio

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


# clip, ratio, anchor ratio, advantage, loss, d loss / d lp, d loss / d anchor, clipped: push 1.1, pull .2, eps .2, .3
ANCHORED = [
    ("rho_only", 1.0, 1.0, -2.0, 1.1 * 2.0 - 2.0 * 0.2, 2.2, -0.4, False),
    ("rho_only", 0.5, 3.0, -2.0, 1.1 * 1.6 - 2.0 * 0.6, 0.0, -0.4, True),  # lowered enough: the pull goes on
    ("rho_only", 0.5, 3.0, 2.0, -1.0, -1.0, 0.0, False),  # a good token is not touched
    ("rho_only", 1.5, 3.0, 2.0, -2.6, 0.0, 0.0, True),
    ("whole", 1.0, 1.0, -2.0, 2.0 * 0.9, 2.2, -0.4, False),
    ("whole", 1.0, 3.0, -2.0, 1.6, 0.0, 0.0, True),  # 1.1 - .6 is below .8: neither push nor pull
    ("whole", 0.5, 3.0, 2.0, -1.0, -1.0, 0.0, False),
    ("whole", 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, False),
]


@pytest.mark.parametrize(("clip", "ratio", "anchor", "advantage", "loss", "slope", "pull", "clipped"), ANCHORED)
def test_an_anchored_token_by_hand(clip, ratio, anchor, advantage, loss, slope, pull, clipped, token_stats):
    """Value, both gradients and the clip metrics of each branch."""
    piece = Anchored(eps_lo=0.2, eps_hi=0.3, push=1.1, pull=0.2, clip=clip)
    lp = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    held = torch.tensor([[anchor]], dtype=torch.float64, requires_grad=True)
    values, measures = piece(token_stats([[1]], lp=lp, advantage=[[advantage]], reads={piece.anchor: held}))
    values.sum().backward()
    assert values.item() == pytest.approx(loss)
    assert lp.grad.item() == pytest.approx(slope)
    assert held.grad.item() == pytest.approx(pull)
    assert bool(measures["train/clip_fraction"].value) == clipped
    assert bool(measures["anchor/clip_fraction"].value) == (clipped and advantage < 0)
    assert measures["anchor/ratio"].value.item() == anchor


@pytest.mark.parametrize("dual", [None, 3.0])
@pytest.mark.parametrize("clip", ["rho_only", "whole"])
def test_without_push_and_pull_an_anchor_changes_nothing(clip, dual, token_stats):
    """push 1 and pull 0 are Clipped to the bit in value and gradient; and so is every A >= 0 at any push and pull."""
    generator = torch.Generator().manual_seed(0)
    lp = torch.randn(4, 50, generator=generator, requires_grad=True)
    advantage = torch.randn(4, 50, generator=generator).round(decimals=0)
    anchor = AnchorRatio(k=3)
    stats = token_stats(
        torch.ones(4, 50),
        lp=lp,
        lp_old=(lp + 0.5 * torch.randn(4, 50, generator=generator)).detach(),
        advantage=advantage,
        reads={anchor: 3.0 * torch.rand(4, 50, generator=generator)},
    )

    def of(piece):
        values, _ = piece(stats)
        return values, torch.autograd.grad(values.sum(), lp)[0]

    plain = of(Clipped(eps_hi=0.28, dual=dual))
    still = of(Anchored(eps_hi=0.28, dual=dual, push=1.0, pull=0.0, clip=clip, anchor=anchor))
    moved = of(Anchored(eps_hi=0.28, dual=dual, clip=clip, anchor=anchor))
    assert all(torch.equal(*pair) for pair in zip(plain, still, strict=True))
    assert all(torch.equal(one[advantage >= 0], two[advantage >= 0]) for one, two in zip(plain, moved, strict=True))
    assert not torch.equal(plain[0][advantage < 0], moved[0][advantage < 0])


@pytest.mark.parametrize(
    "wrong", [{"push": 0.0}, {"pull": -0.1}, {"clip": "both"}, {"anchor": None}, {"anchor": LogProbAt(temperature=1.0)}]
)
def test_anchored_without_what_it_needs_is_refused(wrong):
    """Also without the read of the reference's likeliest tokens."""
    with pytest.raises(ValueError, match="Anchored"):
        Anchored(**wrong)
