import dataclasses
import math
import statistics

import pytest
import torch

from learner.objective import Counts, Objective
from learner.objective.advantage import GroupMean
from learner.objective.aggregate import TokenMean
from learner.objective.credit import ProgressCredit, StepConfidence, TemperatureRatio
from learner.objective.reads import LogProbAt
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


def slow_steps(stats) -> list[list[tuple[int, int]]]:
    """Runs of trained tokens, as places, in order."""
    steps = []
    for i, row in enumerate(stats.mask.tolist()):
        before = False
        for t, trained in enumerate(row):
            if trained and not before:
                steps.append([])
            if trained:
                steps[-1].append((i, t))
            before = trained
    return steps


@pytest.mark.parametrize("centre", [True, False])
def test_step_confidence_against_a_loop(centre, token_stats):
    """EMPG: g over all steps of the batch with mean exactly 1, the bonus of the next step of the same response."""
    stats = stats_of(token_stats)
    found = StepConfidence(k=1.5, k_f=0.7, zeta=0.3, centre=centre)(stats)
    steps = slow_steps(stats)
    assert len(steps) > 8
    means = [statistics.fmean(stats.entropy[at].item() for at in step) for step in steps]
    h = [(mean - min(means)) / (max(means) - min(means) + 1e-8) for mean in means]
    g = [math.exp(-1.5 * one) for one in h]
    g = [one / statistics.fmean(g) for one in g]
    assert statistics.fmean(g) == pytest.approx(1.0)
    expected = {}
    for s, step in enumerate(steps):
        last = s + 1 == len(steps) or steps[s + 1][0][0] != step[0][0]
        for at in step:
            expected[at] = stats.advantage[at].item() * g[s] + (0.0 if last else 0.3 * math.exp(-0.7 * h[s + 1]))
    shift = statistics.fmean(expected.values()) if centre else 0.0
    for at, value in expected.items():
        assert found[at].item() == pytest.approx(value - shift)
    assert torch.equal(found[~stats.mask], stats.advantage[~stats.mask])


def test_step_weights_have_mean_one(token_stats):
    """With A = 1, no bonus and one token a step, the mean over tokens is the mean of g: 1."""
    stats = stats_of(token_stats)
    alone = torch.tensor([True, False] * 6).expand(5, 12)
    stats = dataclasses.replace(stats, mask=alone, advantage=torch.ones(5, 12, dtype=torch.float64))
    found = StepConfidence(zeta=0.0, centre=False)(stats)
    assert found[alone].mean().item() == pytest.approx(1.0)
    assert found[alone].std() > 0.1


def test_step_confidence_switched_off_is_the_advantage(token_stats):
    """To the bit; and where no group has an advantage and each response is one step, nothing pulls."""
    stats = stats_of(token_stats)
    assert torch.equal(StepConfidence(k=0.0, zeta=0.0, centre=False)(stats), stats.advantage)
    whole = token_stats([[1, 1, 0], [1, 0, 0], [1, 1, 1]], entropy=torch.rand(3, 3).double())
    assert (StepConfidence()(whole) == 0.0).all()


def test_step_confidence_of_single_tokens_and_of_nothing(token_stats):
    """One response of one token: g = 1 and centring takes its advantage away; an empty micro-batch is no error."""
    single = token_stats([[1]], advantage=[[2.0]], entropy=[[0.4]])
    assert StepConfidence(centre=False)(single).item() == 2.0
    assert StepConfidence()(single).item() == 0.0
    assert StepConfidence()(token_stats([[0, 0]])).tolist() == [[0.0, 0.0]]


def contrasted(token_stats, right_fraction=0.4):
    stats = stats_of(token_stats)
    generator = torch.Generator().manual_seed(8)
    reads = {
        LogProbAt(temperature=t): -torch.randn(5, 12, generator=generator, dtype=torch.float64).abs() for t in (0.8, 1)
    }
    marks = {
        "right": torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0], dtype=torch.float64),
        "right_fraction": torch.full((5,), right_fraction, dtype=torch.float64),
    }
    return dataclasses.replace(stats, reads=reads, marks=marks)


def test_the_temperature_ratio_against_a_loop(token_stats):
    """DCPO: a = s / fraction, a / (1 + a), mixed with the ratio of the two temperatures where the answer is right."""
    stats = contrasted(token_stats)
    piece = TemperatureRatio(temperature=0.8, strength=0.07)
    assert piece.needs == stats.reads.keys()
    found = piece(stats)
    a = 0.07 / 0.4
    a = a / (1 + a)
    for at in [tuple(at) for at in stats.mask.nonzero().tolist()]:
        ratio = math.exp(stats.reads[LogProbAt(temperature=0.8)][at] - stats.reads[LogProbAt(temperature=1.0)][at])
        expected = (1 - a) * stats.advantage[at].item() + a * stats.marks["right"][at[0]].item() * ratio
        assert found[at].item() == pytest.approx(expected)
    assert torch.equal(found[~stats.mask], stats.advantage[~stats.mask])


def test_the_temperature_ratio_at_rest(token_stats):
    """Strength 0 is the advantage to the bit and reads nothing; without a right answer nothing is added."""
    stats = contrasted(token_stats, right_fraction=0.0)
    assert TemperatureRatio().needs == frozenset()
    assert TemperatureRatio()(stats) is stats.advantage
    nobody = dataclasses.replace(stats, marks=stats.marks | {"right": torch.zeros(5, dtype=torch.float64)})
    assert (TemperatureRatio(temperature=0.8, strength=0.1)(nobody)[stats.mask] == 0.0).all()
    TemperatureRatio(temperature=0.8, strength=0.1)(dataclasses.replace(stats, mask=torch.zeros_like(stats.mask)))


def test_an_impossible_ratio_is_refused():
    for wrong in ({"temperature": 0.0}, {"strength": -0.1}):
        with pytest.raises(ValueError, match="TemperatureRatio"):
            TemperatureRatio(**wrong)
