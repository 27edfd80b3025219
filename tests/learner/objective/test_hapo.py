import math

import pytest
import torch

from learner.objective.hapo import EntropyClipped, normalised_entropy
from learner.objective.surrogate import Clipped


def stats_of(token_stats, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal():
        return torch.randn(5, 8, generator=generator, dtype=torch.float64)

    lp_old = -normal().abs()
    entropy = normal().exp()
    entropy[0, 0] = 0.0
    return token_stats(
        torch.rand(5, 8, generator=generator) < 0.8,
        lp=(lp_old + 0.25 * normal()).requires_grad_(),
        lp_old=lp_old,
        advantage=normal()[:, :1].expand(5, 8),
        entropy=entropy,
    )


def slow_h(stats, quantile, released_sign) -> dict:
    """log H, its nearest-rank quantile, RMS about it, and each branch divided by its own extreme."""
    places = [tuple(at) for at in stats.mask.nonzero().tolist()]
    x = {at: math.log(max(stats.entropy[at].item(), 1e-8)) for at in places}
    pivot = sorted(x.values())[round(quantile * (len(x) - 1))]
    rms = math.sqrt(sum((value - pivot) ** 2 for value in x.values()) / len(x))
    h = {at: (value - pivot) / rms for at, value in x.items()}
    top, bottom = max(h.values()), min(h.values())
    below = bottom if released_sign else -bottom
    return {at: value / top if value > 0 else value / below for at, value in h.items()}


@pytest.mark.parametrize("released_sign", [False, True])
def test_normalised_entropy_against_a_loop(released_sign, token_stats):
    """In [-1, 1], <= 0 exactly at and below the pivot (intended sign), >= 0 everywhere (released sign)."""
    stats = stats_of(token_stats)
    h = normalised_entropy(stats, 0.8, released_sign)
    for at, expected in slow_h(stats, 0.8, released_sign).items():
        assert h[at].item() == pytest.approx(expected)
    assert (h[~stats.mask] == 0).all()
    assert h.max() == 1.0
    assert h.min() == (0.0 if released_sign else -1.0)


@pytest.mark.parametrize("released_sign", [False, True])
def test_loss_and_gradient_against_a_loop(released_sign, token_stats):
    """Grown clip ranges, redistributed advantages and the dual clip, token by token."""
    stats = stats_of(token_stats, seed=3)
    piece = EntropyClipped(eps_lo=0.2, eps_hi=0.3, widen=0.8, redistribute=0.9, dual=1.4, released_sign=released_sign)
    values, _ = piece(stats)
    values[stats.mask].sum().backward()
    kinds = set()
    for at, h in slow_h(stats, 0.8, released_sign).items():
        lo, hi = 0.2 * (1 - 0.8 * min(h, 0)), 0.3 * (1 + 0.8 * max(h, 0))
        ratio = (stats.lp[at] - stats.lp_old[at]).exp().item()
        inside = 1 - lo / 2 < ratio < 1 + hi / 2
        a = stats.advantage[at].item()
        if (h > 0 and not inside) or (h <= 0 and inside):
            a *= 1 + 0.9 * h
        free, bound = -a * ratio, -a * min(max(ratio, 1 - lo), 1 + hi)
        loss, slope = (free, free) if free >= bound else (bound, 0.0)
        if a < 0 and loss > -1.4 * a:
            loss, slope = -1.4 * a, 0.0
        kinds.add((h > 0, inside, slope == 0.0))
        assert values[at].item() == pytest.approx(loss)
        assert stats.lp.grad[at].item() == pytest.approx(slope)
    assert len(kinds) >= 4


def test_with_both_halves_off_it_is_the_plain_surrogate(token_stats):
    stats = stats_of(token_stats)
    values, _ = EntropyClipped(widen=0.0, redistribute=0.0, dual=10.0)(stats)
    assert torch.equal(values, Clipped(dual=10.0)(stats)[0])


def test_equal_entropies_and_empty_micro_batches_change_nothing(token_stats):
    """Without deviation there is no pivot to be above or below of."""
    stats = token_stats([[1, 1]], lp=[[0.1, -0.1]], advantage=[[1.0, 1.0]], entropy=[[0.5, 0.5]])
    assert torch.equal(EntropyClipped()(stats)[0], Clipped(dual=10.0)(stats)[0])
    assert EntropyClipped()(token_stats([[0, 0]]))[0].sum() == 0.0


@pytest.mark.parametrize("wrong", [{"eps_lo": 2.0}, {"widen": -1.0}, {"redistribute": 1.1}, {"dual": 0.5}])
def test_impossible_values_are_refused(wrong):
    with pytest.raises(ValueError, match="EntropyClipped needs"):
        EntropyClipped(**wrong)
