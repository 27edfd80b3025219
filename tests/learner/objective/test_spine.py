import dataclasses
import statistics

import pytest
import torch

from learner.objective import Counts, Objective
from learner.objective.advantage import GroupMean
from learner.objective.aggregate import TokenMean
from learner.objective.reads import ReferenceDivergence
from learner.objective.select import EntropyQuantile
from learner.objective.spine import ForkBand, ForkDivergence, OtsuForks
from learner.objective.surrogate import Clipped


def spread(token_stats, seed=0):
    """Six responses of 1 to 30 tokens, entropies in two heaps; the last one has none, the one before is flat."""
    generator = torch.Generator().manual_seed(seed)

    def normal():
        return torch.randn(6, 30, generator=generator, dtype=torch.float64)

    lengths = torch.tensor([30, 17, 9, 1, 6, 0])
    entropy = torch.where(normal() > 0.6, 1.8, 0.2) + 0.2 * normal().abs()
    entropy[4] = 0.7
    lp_old = -normal().abs()
    return token_stats(
        torch.arange(30) < lengths[:, None],
        entropy=entropy.requires_grad_(),
        lp=(lp_old + 0.2 * normal()).requires_grad_(),
        lp_old=lp_old,
        advantage=normal()[:, :1].expand(6, 30),
        reads={ReferenceDivergence(): normal().abs().requires_grad_()},
    )


def slow_forks(values, bins=100) -> list[bool]:
    """Otsu by trying every cut, class means from the bins' centres."""
    low, high = min(values), max(values)
    if low == high:
        return [True] * len(values)
    width = (high - low) / bins
    centres = [low + (k + 0.5) * width for k in range(bins)]
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, int((value - low) / (high - low) * bins))] += 1
    best, tau = -1.0, None
    for k in range(bins - 1):
        w0, w1 = sum(counts[: k + 1]), sum(counts[k + 1 :])
        mu0 = sum(n * c for n, c in zip(counts[: k + 1], centres, strict=False)) / w0
        mu1 = sum(n * c for n, c in zip(counts[k + 1 :], centres[k + 1 :], strict=True)) / w1
        score = w0 * w1 * (mu0 - mu1) ** 2
        if score > best * (1 + 1e-12):
            best, tau = score, centres[k]
    return [value >= tau for value in values]


def forks_of(stats, slow=slow_forks) -> list[list[tuple[int, int]]]:
    """Per response that has tokens the places of its forks."""
    found = []
    for i in range(len(stats.mask)):
        places = [(i, t) for t in range(stats.mask.shape[1]) if stats.mask[i, t]]
        if places:
            chosen = slow([stats.entropy[at].item() for at in places])
            found.append([at for at, one in zip(places, chosen, strict=True) if one])
    return found


@pytest.mark.parametrize("seed", range(5))
def test_forks_against_every_cut(seed, token_stats):
    """The kept tokens are those a loop over all cuts keeps; single tokens and flat responses are kept whole."""
    stats = spread(token_stats, seed)
    chosen = OtsuForks()(stats)
    expected = {at for one in forks_of(stats) for at in one}
    assert {tuple(at) for at in chosen.nonzero().tolist()} == expected
    assert 0 < len(expected) < stats.mask.sum()
    assert chosen[3, 0]
    assert chosen[4, :6].all()


def slow_edges(values, robust) -> tuple[float, float]:
    if not robust:
        ranked = sorted(values)
        place = 0.1 * (len(ranked) - 1)
        low = int(place)
        after = ranked[min(low + 1, len(ranked) - 1)]
        return ranked[low] + (place - low) * (after - ranked[low]), statistics.median(values)
    c = statistics.median(values)
    return max(0.0, c - max(1.4826 * statistics.median(abs(v - c) for v in values), 1e-6)), c


@pytest.mark.parametrize("robust", [True, False])
def test_the_band_against_a_loop(robust, token_stats):
    """Value and gradient in H of both sides, at the forks of each response; nothing elsewhere."""
    stats = spread(token_stats)
    values, measures = ForkBand(below=0.3, above=0.7, robust=robust)(stats)
    values.sum().backward()
    expected, slopes = torch.zeros(6, 30).double(), torch.zeros(6, 30).double()
    inside = 0
    for forks in forks_of(stats):
        lower, upper = slow_edges([stats.entropy[at].item() for at in forks], robust)
        for at in forks:
            h = stats.entropy[at].item()
            expected[at] = 0.3 * max(0.0, lower - h) + 0.7 * max(0.0, h - upper)
            slopes[at] = -0.3 if h < lower else 0.7 if h > upper else 0.0
            inside += lower <= h <= upper
    torch.testing.assert_close(values.detach(), expected)
    torch.testing.assert_close(stats.entropy.grad, slopes)
    assert (slopes > 0).any()
    assert (slopes < 0).any()
    assert measures["spine/inside_band_fraction"].value.item() == inside


def composed(**changes) -> Objective:
    pieces = {
        "select": {"forks": OtsuForks()},
        "regularisers": {"band": ForkBand(), "kl": ForkDivergence(coefficient=0.2)},
    }
    return Objective(advantage=GroupMean(), surrogate=Clipped(), aggregate=TokenMean(), **(pieces | changes))


def test_the_whole_loss_against_its_formula(token_stats):
    """[-sum m min(rho A, clip(rho) A) + sum m X] / tokens + lambda sum m KL / forks; no gradient outside the forks."""
    stats = spread(token_stats)
    tokens = int(stats.mask.sum())
    objective = composed()
    assert objective.reference
    assert objective.reads == (ReferenceDivergence(),)
    loss, measures = objective(stats, Counts(tokens=tokens, sequences=5, groups=1))
    loss.backward()
    total, kl, count = 0.0, 0.0, 0
    for forks in forks_of(stats):
        lower, upper = slow_edges([stats.entropy[at].item() for at in forks], robust=True)
        for at in forks:
            h, a = stats.entropy[at].item(), stats.advantage[at].item()
            rho = (stats.lp[at] - stats.lp_old[at]).exp().item()
            total -= min(rho * a, min(max(rho, 0.8), 1.2) * a)
            total += 0.01 * max(0.0, lower - h) + 0.01 * max(0.0, h - upper)
            kl += stats.reads[ReferenceDivergence()][at].item()
            count += 1
    assert loss.item() == pytest.approx(total / tokens + 0.2 * kl / count)
    forks = OtsuForks()(stats)
    for leaf in (stats.lp, stats.entropy, stats.reads[ReferenceDivergence()]):
        assert (leaf.grad[~forks] == 0.0).all()
    slope = stats.reads[ReferenceDivergence()].grad[forks]
    torch.testing.assert_close(slope, torch.full_like(slope, 0.2 / count))
    assert measures["train/reference_kl"].weight.item() == count


def test_splitting_the_batch_leaves_policy_loss_and_band_as_they_are(token_stats):
    """Denominators are the batch's."""
    stats = spread(token_stats)
    counts = Counts(tokens=int(stats.mask.sum()), sequences=5, groups=1)
    objective = composed(regularisers={"band": ForkBand()})

    def rows(chosen):
        names = ("mask", "group", "advantage", "lp", "lp_old", "lp_sampler", "temperature", "entropy")
        return dataclasses.replace(stats, **{name: getattr(stats, name)[chosen] for name in names}, reads={})

    whole = objective(stats, counts)[0].item()
    parts = [objective(rows(slice(start, start + 2)), counts)[0].item() for start in (0, 2, 4)]
    assert sum(parts) == pytest.approx(whole)


def test_flat_responses_are_all_forks_and_inside_the_band(token_stats):
    """Equal entropies: every token is chosen, X = 0, to the bit; a response of one token likewise; and of none."""
    for mask, h in (([[1, 1, 1]], 0.4), ([[1, 0, 0]], 0.0), ([[0, 0, 0]], 0.0)):
        stats = token_stats(mask, entropy=torch.full((1, 3), h, dtype=torch.float64, requires_grad=True))
        stats = dataclasses.replace(stats, reads={ReferenceDivergence(): torch.zeros(1, 3, dtype=torch.float64)})
        assert torch.equal(OtsuForks()(stats), stats.mask)
        values, _ = ForkBand()(stats)
        (slope,) = torch.autograd.grad(values.sum(), stats.entropy)
        assert (values == 0.0).all()
        assert (slope == 0.0).all()
        assert (ForkDivergence()(stats)[0] == 0.0).all()


def test_the_first_version_is_a_composition(token_stats):
    """Forks by quantile in all three places."""
    stats = spread(token_stats)
    forks = EntropyQuantile(keep=0.2, scope="response")
    values, _ = ForkBand(forks=forks, robust=False)(stats)
    assert (values[~forks(stats)] == 0.0).all()
    assert (values != 0.0).any()


def test_too_few_bins_are_refused():
    with pytest.raises(ValueError, match="OtsuForks.bins is at least 2, got 1"):
        OtsuForks(bins=1)
