import dataclasses
import math

import pytest
import torch

from learner.objective.reads import SurplusGap
from learner.objective.select import (
    CovarianceBand,
    EntropyQuantile,
    NegativeOutliers,
    NegativesBelowPolicy,
    SurestCredit,
)


def slow_choice(entropy, mask, keep, scope):
    """Sort and cut by hand: linear interpolation between order statistics, as numpy and torch define quantiles."""

    def threshold(values):
        values = sorted(values)
        place = (1 - keep) * (len(values) - 1)
        below = int(place)
        above = min(below + 1, len(values) - 1)
        return values[below] + (place - below) * (values[above] - values[below])

    rows = [[h for h, m in zip(hs, ms, strict=True) if m] for hs, ms in zip(entropy, mask, strict=True)]
    pooled = [h for row in rows for h in row]
    chosen = []
    for row, (hs, ms) in enumerate(zip(entropy, mask, strict=True)):
        pool = rows[row] if scope == "response" else pooled
        chosen.append([bool(m and pool and h >= threshold(pool) - 1e-12) for h, m in zip(hs, ms, strict=True)])
    return chosen


@pytest.mark.parametrize("scope", ["response", "batch"])
@pytest.mark.parametrize("keep", [0.2, 0.5, 1.0])
def test_the_least_sure_tokens_are_kept(keep, scope, token_stats):
    """The kept tokens are those a sort by hand keeps; padding neither counts nor is chosen."""
    torch.manual_seed(0)
    entropy = torch.rand(4, 6, dtype=torch.float64)
    mask = torch.tensor([[1] * 6, [1] * 3 + [0] * 3, [1] + [0] * 5, [0] * 6], dtype=torch.bool)
    stats = token_stats(mask, entropy=entropy)
    chosen = EntropyQuantile(keep=keep, scope=scope)(stats)
    assert chosen.tolist() == slow_choice(entropy.tolist(), mask.tolist(), keep, scope)


def test_keeping_everything_keeps_everything(token_stats):
    mask = torch.tensor([[True, True, False]])
    chosen = EntropyQuantile(keep=1.0)(token_stats(mask, entropy=[[0.3, 0.1, 0.0]]))
    assert chosen.tolist() == mask.tolist()


@pytest.mark.parametrize("keep", [0.0, -0.1, 1.5])
def test_an_impossible_fraction_is_refused(keep):
    with pytest.raises(ValueError, match=r"fraction of tokens in \(0, 1\]"):
        EntropyQuantile(keep=keep)


def spread(token_stats, seed=0):
    """Ten by ten tokens, a quarter of them padding, with ratios on both sides of the clip range."""
    generator = torch.Generator().manual_seed(seed)

    def normal():
        return torch.randn(10, 10, generator=generator, dtype=torch.float64)

    lp = -3 * normal().abs()
    return token_stats(
        torch.rand(10, 10, generator=generator) < 0.75,
        lp=lp,
        lp_old=lp + 0.2 * normal(),
        lp_sampler=lp + 0.1 * normal(),
        advantage=2 * normal()[:, :1].expand(10, 10),
        entropy=normal().abs(),
    )


def test_covariance_band_drops_so_many_and_only_candidates(token_stats):
    """Clip-Cov against a loop: the number of dropped tokens, and that each was in the band and not clipped anyway."""
    stats = spread(token_stats)
    places = [tuple(at) for at in stats.mask.nonzero().tolist()]
    mean_a = sum(stats.advantage[at].item() for at in places) / len(places)
    mean_lp = sum(stats.lp[at].item() for at in places) / len(places)
    candidates = set()
    for at in places:
        a, ratio = stats.advantage[at].item(), (stats.lp[at] - stats.lp_old[at]).exp().item()
        clipped = (a > 0 and ratio > 1.28) or (a < 0 and ratio < 0.8)
        if 0.5 < (a - mean_a) * (stats.lp[at].item() - mean_lp) < 4.0 and not clipped:
            candidates.add(at)
    assert len(candidates) > 8
    torch.manual_seed(0)
    drops = []
    for _ in range(60):
        kept = CovarianceBand(fraction=0.07, low=0.5, high=4.0, eps_hi=0.28)(stats)
        drops.append({tuple(at) for at in (stats.mask & ~kept).nonzero().tolist()})
        assert len(drops[-1]) == int(0.07 * len(places))
        assert not (kept & ~stats.mask).any()
    assert set().union(*drops) == candidates, "drawn at random from all of them"


def test_covariance_band_drops_one_at_least_and_nothing_without_candidates(token_stats):
    stats = spread(token_stats)
    assert (stats.mask.sum() - CovarianceBand(low=0.5)(stats).sum()).item() == 1
    assert torch.equal(CovarianceBand(low=1e6, high=1e7)(stats), stats.mask)
    assert not CovarianceBand()(token_stats([[0, 0]])).any()


@pytest.mark.parametrize("released_logprob", [False, True])
def test_outliers_against_a_loop(released_logprob, token_stats):
    """Clip_B: only punished tokens far below the mean of p (H + lp) go; infinitely many deviations keep everything."""
    stats = spread(token_stats)
    lp = stats.lp_sampler if released_logprob else stats.lp_old
    places = [tuple(at) for at in stats.mask.nonzero().tolist()]
    scores = {at: (lp[at].exp() * (stats.entropy[at] + lp[at])).item() for at in places}
    mean = sum(scores.values()) / len(places)
    deviation = (sum((score - mean) ** 2 for score in scores.values()) / len(places)) ** 0.5
    expected = {at for at in places if not (stats.advantage[at] < 0 and scores[at] - mean < -0.4 * deviation)}
    assert len(expected) < len(places)
    kept = NegativeOutliers(deviations=0.4, released_logprob=released_logprob)(stats)
    assert {tuple(at) for at in kept.nonzero().tolist()} == expected
    assert torch.equal(NegativeOutliers(deviations=float("inf"))(stats), stats.mask)
    assert torch.equal(NegativeOutliers()(token_stats([[1, 1]])), torch.ones(1, 2, dtype=torch.bool))


def with_gaps(stats, seed=0):
    """Gaps around a mean that is not 0, and a response without an advantage."""
    generator = torch.Generator().manual_seed(seed)
    gaps = 0.6 + torch.randn(stats.mask.shape, generator=generator, dtype=torch.float64)
    advantage = stats.advantage.clone()
    advantage[0] = 0.0
    return dataclasses.replace(stats, reads={SurplusGap(): gaps}, advantage=advantage)


@pytest.mark.parametrize(("deviations", "fraction"), [(0.6, 1.0), (0.6, 0.03), (1.5, 1e-4), (math.inf, 1.0)])
def test_negatives_below_the_policy_against_a_loop(deviations, fraction, token_stats):
    """Clip_V: punished tokens with D > mu sd(D), only the largest of them where the cap is smaller, one at least."""
    stats = with_gaps(spread(token_stats))
    places = [tuple(at) for at in stats.mask.nonzero().tolist()]
    gap = {at: stats.reads[SurplusGap()][at].item() for at in places}
    mean = sum(gap.values()) / len(places)
    deviation = (sum((value - mean) ** 2 for value in gap.values()) / len(places)) ** 0.5
    candidates = [at for at in places if stats.advantage[at] < 0 and gap[at] > deviations * deviation]
    cap = max(1, math.floor(fraction * len(places)))
    dropped = set(sorted(candidates, key=lambda at: -gap[at])[:cap])
    assert (len(candidates) > cap) == (fraction < 1.0)
    kept = NegativesBelowPolicy(deviations=deviations, fraction=fraction)(stats)
    assert {tuple(at) for at in kept.nonzero().tolist()} == set(places) - dropped


def test_where_nothing_stands_out_no_negative_is_dropped(token_stats):
    """Equal gaps, a single token, nothing trained; and with no punished token everything stays."""
    flat = token_stats([[1, 1]], advantage=[[-1.0, -1.0]], reads={SurplusGap(): torch.full((1, 2), 0.3)})
    single = token_stats([[1]], advantage=[[-1.0]], reads={SurplusGap(): torch.tensor([[2.0]])})
    empty = token_stats([[0, 0]], reads={SurplusGap(): torch.zeros(1, 2)})
    good = dataclasses.replace(with_gaps(spread(token_stats)), advantage=torch.ones(10, 10))
    for stats in (flat, single, empty, good):
        assert torch.equal(NegativesBelowPolicy(deviations=0.1)(stats), stats.mask)


@pytest.mark.parametrize("scope", ["response", "batch"])
@pytest.mark.parametrize("keep", [0.2, 0.55, 1.0])
def test_the_surest_credit_by_sorting(keep, scope, token_stats):
    """The tokens with the largest |A| H, as many as the fraction says, rounded up."""
    stats = spread(token_stats)
    score = (stats.advantage.abs() * stats.entropy).tolist()
    expected = set()
    rows = [[(i, t) for t in range(10) if stats.mask[i, t]] for i in range(10)]
    for pool in rows if scope == "response" else [[at for row in rows for at in row]]:
        ranked = sorted(pool, key=lambda at: -score[at[0]][at[1]])
        expected |= set(ranked[: math.ceil(keep * len(pool) - 1e-9)])
    chosen = SurestCredit(keep=keep, scope=scope)(stats)
    assert {tuple(at) for at in chosen.nonzero().tolist()} == expected


def test_impossible_selectors_are_refused():
    for make in (
        lambda: CovarianceBand(fraction=0.0),
        lambda: CovarianceBand(low=5.0, high=1.0),
        lambda: NegativeOutliers(deviations=0.0),
        lambda: NegativesBelowPolicy(deviations=0.0),
        lambda: NegativesBelowPolicy(fraction=0.0),
        lambda: SurestCredit(keep=1.1),
        lambda: SurestCredit(scope="all"),
    ):
        with pytest.raises(ValueError, match=r"CovarianceBand|NegativeOutliers|NegativesBelowPolicy|SurestCredit"):
            make()
