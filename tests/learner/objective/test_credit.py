import math
import statistics

import pytest
import torch

from learner.objective import Counts, Objective
from learner.objective.advantage import GroupMean
from learner.objective.aggregate import TokenMean
from learner.objective.credit import ProgressCredit
from learner.objective.surrogate import Clipped


def stats_of(token_stats, progress=True):
    generator = torch.Generator().manual_seed(4)

    def normal():
        return torch.randn(5, 12, generator=generator, dtype=torch.float64)

    lp = -normal().abs()
    return token_stats(
        torch.rand(5, 12, generator=generator) < 0.7,
        lp=lp.requires_grad_(),
        lp_old=lp.detach(),
        lp_ref=lp.detach() + (normal() if progress else 0.0),
        advantage=torch.tensor([[1.0], [-0.5], [0.0], [2.0], [-2.0]], dtype=torch.float64).expand(5, 12),
        entropy=normal().abs(),
        group=torch.tensor([7, 7, 7, 3, 3]),
    )


def normalised(values: dict, epsilon: float) -> dict:
    mean, deviation = statistics.fmean(values.values()), statistics.pstdev(values.values())
    return {at: (value - mean) / (deviation + epsilon) for at, value in values.items()}


def test_progress_credit_against_a_loop(token_stats):
    """ERPO group by group: windowed progress, gated by entropy, signed, normalised and added."""
    stats = stats_of(token_stats)
    piece = ProgressCredit(gate=2.0, strength=0.3, scale=0.1, windows=3)
    found = piece(stats)
    for group in (3, 7):
        rows = [i for i in range(5) if stats.group[i] == group]
        places = {i: [t for t in range(12) if stats.mask[i, t]] for i in rows}
        everywhere = [(i, t) for i in rows for t in places[i]]
        window = {(i, t): min(2, math.floor(3 * n / len(places[i]))) for i in rows for n, t in enumerate(places[i])}
        progress = {at: 0.1 * (stats.lp[at] - stats.lp_ref[at]).item() for at in everywhere}
        within = {}
        for number in range(3):
            within |= normalised({at: progress[at] for at in everywhere if window[at] == number}, 1e-6)
        z = normalised({at: stats.entropy[at].item() for at in everywhere}, 1e-8)
        psi = {
            at: 1 / (1 + math.exp(-2.0 * z[at])) * math.copysign(1.0, a) * within[at]
            if (a := stats.advantage[at].item())
            else 0.0
            for at in everywhere
        }
        for at, change in normalised(psi, 1e-6).items():
            assert found[at].item() == pytest.approx(stats.advantage[at].item() + 0.3 * change)


def test_without_progress_every_advantage_is_its_responses(token_stats):
    """At lp = lp_ref, to the bit; and an empty micro-batch is no error."""
    stats = stats_of(token_stats, progress=False)
    assert torch.equal(ProgressCredit()(stats), stats.advantage)
    ProgressCredit()(token_stats([[0, 0]], lp_ref=[[0.0, 0.0]]))


def test_credit_reaches_the_surrogate_and_carries_no_gradient(token_stats):
    """At ratio 1 the slope of each token is minus its own advantage."""
    stats = stats_of(token_stats)
    pieces = {"advantage": GroupMean(), "surrogate": Clipped(), "aggregate": TokenMean()}
    objective = Objective(**pieces, credit={"progress": ProgressCredit()})
    assert objective.needs == {"lp_ref"}
    loss, _ = objective(stats, Counts(tokens=1, sequences=5, groups=2))
    (gradient,) = torch.autograd.grad(loss, stats.lp)
    torch.testing.assert_close(gradient[stats.mask], -ProgressCredit()(stats)[stats.mask])
