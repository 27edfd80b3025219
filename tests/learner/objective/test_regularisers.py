import dataclasses
import math
import statistics

import pytest
import torch

from learner.objective import Counts, Objective
from learner.objective.advantage import GroupMean
from learner.objective.aggregate import SequenceSum
from learner.objective.reads import TopPEntropy
from learner.objective.regularisers import (
    CovarianceEntropy,
    CovariancePenalty,
    EntropyBonus,
    PeakEntropyAnchor,
    ReferenceKl,
)
from learner.objective.surrogate import Clipped


@pytest.fixture
def stats(token_stats):
    generator = torch.Generator().manual_seed(2)

    def normal():
        return torch.randn(4, 6, generator=generator, dtype=torch.float64)

    lp_old = -normal().abs()
    return token_stats(
        torch.rand(4, 6, generator=generator) < 0.8,
        lp=(lp_old + 0.3 * normal()).requires_grad_(),
        lp_old=lp_old,
        advantage=normal()[:, :1].expand(4, 6),
        entropy=normal().abs().requires_grad_(),
    )


def covariances(stats) -> dict:
    places = [tuple(at) for at in stats.mask.nonzero().tolist()]
    mean_a = sum(stats.advantage[at].item() for at in places) / len(places)
    mean_lp = sum(stats.lp[at].item() for at in places) / len(places)
    return {at: (stats.advantage[at].item() - mean_a) * (stats.lp[at].item() - mean_lp) for at in places}


def test_the_bonus_is_the_entropy(stats):
    """Value and slope of -c H."""
    values, _ = EntropyBonus(coefficient=0.1)(stats)
    assert torch.equal(values, -0.1 * stats.entropy)


@pytest.mark.parametrize(("fraction", "count"), [(0.2, None), (1e-9, 1), (1.0, None)])
def test_the_penalty_sits_on_the_largest_covariances(fraction, count, stats):
    """KL-Cov: |lp - lp_old| on the top fraction, at least one, with its gradient; 0 elsewhere."""
    score = covariances(stats)
    count = count or int(fraction * len(score))
    largest = set(sorted(score, key=lambda at: -score[at])[:count])
    values, _ = CovariancePenalty(fraction=fraction, coefficient=0.7)(stats)
    values.sum().backward()
    for at in [(i, t) for i in range(4) for t in range(6)]:
        distance = (stats.lp[at] - stats.lp_old[at]).item()
        assert values[at].item() == pytest.approx(0.7 * abs(distance) if at in largest else 0.0)
        assert stats.lp.grad[at].item() == pytest.approx(math.copysign(0.7, distance) if at in largest else 0.0)


def test_the_penalty_is_nothing_where_nothing_moved_or_nothing_is_trained(token_stats):
    lp = torch.tensor([[-1.0, -2.0]], dtype=torch.float64, requires_grad=True)
    values, _ = CovariancePenalty(fraction=1.0)(token_stats([[1, 1]], lp=lp, lp_old=[[-1.0, -2.0]]))
    values.sum().backward()
    assert lp.grad.tolist() == [[0.0, 0.0]]
    assert CovariancePenalty()(token_stats([[0, 0]]))[0].sum() == 0.0


@pytest.mark.parametrize("literal", [False, True])
@pytest.mark.parametrize("cap", [100.0, 1.1])
def test_the_covariance_entropy_against_a_loop(literal, cap, stats):
    """TEA-RL: a capped softmax of the covariances weighs the entropies; its mean over tokens is the paper's sum."""
    score = covariances(stats)
    n = len(score)
    total = sum(math.exp(value / 0.7) for value in score.values())
    weight = {at: min(math.exp(value / 0.7) / total, cap / n) for at, value in score.items()}
    assert (max(weight.values()) == cap / n) == (cap == 1.1)
    factor = n if literal else 1 / sum(weight.values())
    expected = -0.05 * factor * sum(weight[at] * stats.entropy[at].item() for at in weight)
    values, _ = CovarianceEntropy(temperature=0.7, cap=cap, literal=literal)(stats)
    loss = values[stats.mask].sum() / n
    assert loss.item() == pytest.approx(expected)
    loss.backward()
    for at in weight:
        assert stats.entropy.grad[at].item() == pytest.approx(-0.05 * factor * weight[at])
    assert stats.lp.grad is None


def test_the_covariance_entropy_of_nothing_is_nothing(token_stats):
    values, _ = CovarianceEntropy()(token_stats([[0, 0]]))
    assert values.tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize(
    ("estimator", "value", "slope"),
    [("k1", -0.5, 1.0), ("k2", 0.125, -0.5), ("k3", math.exp(0.5) - 1.5, 1 - math.exp(0.5))],
)
def test_the_estimators_of_a_kl_by_hand(estimator, value, slope, token_stats):
    """At lp_ref - lp = .5, value and slope in lp; where both agree it is 0; far away it stays finite."""
    lp = torch.tensor([[-1.0, -2.0, -90.0]], dtype=torch.float64, requires_grad=True)
    stats = token_stats([[1, 1, 1]], lp=lp, lp_ref=[[-0.5, -2.0, 0.0]])
    values, measures = ReferenceKl(estimator=estimator, coefficient=2.0)(stats)
    values.sum().backward()
    assert values[0, :2].tolist() == pytest.approx([2.0 * value, 0.0])
    assert lp.grad[0, 0].item() == pytest.approx(2.0 * slope)
    assert values.isfinite().all()
    assert measures["train/reference_kl"].weight.item() == 3


def top_p_of(stats, seed=5):
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(stats.mask.shape, generator=generator, dtype=torch.float64).requires_grad_()
    mask = stats.mask.clone()
    mask[0] = torch.arange(6) == 1  # a response of one token has no peak
    return dataclasses.replace(stats, mask=mask, reads={TopPEntropy(): values})


def slow_peaks(stats, quantile):
    """Per response with a peak: its places, by hand. The quantile interpolates between order statistics."""
    entropy, found = stats.reads[TopPEntropy()], []
    for i in range(len(stats.mask)):
        places = [(i, t) for t in range(stats.mask.shape[1]) if stats.mask[i, t]]
        if not places:
            continue
        ranked = sorted(entropy[at].item() for at in places)
        place = quantile * (len(ranked) - 1)
        low = int(place)
        threshold = ranked[low] + (place - low) * (ranked[min(low + 1, len(ranked) - 1)] - ranked[low])
        peaks = [at for at in places if entropy[at].item() > threshold]
        if peaks:
            found.append(peaks)
    return found


@pytest.mark.parametrize("host", ["own", "objective"])
def test_the_anchor_of_the_peaks_against_a_loop(host, stats):
    """SIREN: value, gradient and metric; the host's aggregator, whatever it divides by, does not scale it."""
    stats = top_p_of(stats)
    entropy, peaks = stats.reads[TopPEntropy()], slow_peaks(stats, 0.6)
    means = [statistics.fmean(entropy[at].item() for at in one) for one in peaks]
    h = statistics.fmean(means)
    sequences = int(stats.mask.any(1).sum())
    piece = PeakEntropyAnchor(coefficient=0.3, quantile=0.6, anchor=0.25)
    counts = Counts(tokens=int(stats.mask.sum()), sequences=sequences, groups=1)
    if host == "own":
        values, measures = piece(stats)
        loss = piece.aggregate(values.masked_fill(~stats.mask, 0.0), stats, counts)
    else:
        objective = Objective(
            advantage=GroupMean(),
            surrogate=Clipped(),
            aggregate=SequenceSum(max_tokens=7),
            regularisers={"peaks": piece},
        )
        assert objective.reads == (TopPEntropy(),)
        _, measures = objective(stats, counts)
        loss = measures["regulariser/peaks"].value
    assert loss.item() == pytest.approx(0.3 * (h - 0.25) ** 2)
    assert (measures["entropy/peaks"].value / measures["entropy/peaks"].weight).item() == pytest.approx(h)
    if host == "own":
        loss.backward()
        expected = torch.zeros_like(entropy)
        for one in peaks:
            for at in one:
                expected[at] = 0.3 * 2 * (h - 0.25) / (len(means) * len(one))
        torch.testing.assert_close(entropy.grad, expected.detach())


def test_the_anchor_is_nothing_until_it_is_set_and_where_it_was_set(stats):
    """X = 0 while nothing is measured, and on the batch the anchor comes from, with no gradient there."""
    stats = top_p_of(stats)
    values, measures = PeakEntropyAnchor()(stats)
    assert (values == 0.0).all()
    h = (measures["entropy/peaks"].value / measures["entropy/peaks"].weight).item()
    values, _ = PeakEntropyAnchor(anchor=h)(stats)
    assert values.abs().max().item() < 1e-30
    (slope,) = torch.autograd.grad(values.sum(), stats.reads[TopPEntropy()])
    assert slope.abs().max().item() < 1e-12


@pytest.mark.parametrize("mask", [[[1], [1]], [[0], [0]], [[1], [0]]])
def test_without_a_peak_there_is_no_anchor_term(mask, token_stats):
    """Responses of one token, and no response at all: the term and the weight of the metric are 0, nothing is NaN."""
    entropy = torch.tensor([[0.7], [0.2]], dtype=torch.float64, requires_grad=True)
    stats = token_stats(mask, reads={TopPEntropy(): entropy})
    values, measures = PeakEntropyAnchor(anchor=0.5)(stats)
    assert (values == 0.0).all()
    assert measures["entropy/peaks"].weight.item() == 0.0
    (slope,) = torch.autograd.grad(values.sum(), entropy)
    assert (slope == 0.0).all()


def test_impossible_regularisers_are_refused():
    for make in (
        lambda: CovariancePenalty(fraction=0.0),
        lambda: CovarianceEntropy(temperature=0.0),
        lambda: ReferenceKl(estimator="k4"),
        lambda: PeakEntropyAnchor(quantile=1.0),
    ):
        with pytest.raises(ValueError, match=r"CovariancePenalty|CovarianceEntropy|ReferenceKl|PeakEntropyAnchor"):
            make()
