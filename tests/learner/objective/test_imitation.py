"""DistIL: its gradient is that of an expected cost, worked out by enumerating every response of a small policy."""

import itertools

import pytest
import torch

from learner.measures import combine, reduce
from learner.objective.imitation import CROSS_ENTROPY, ImitateTeacher
from learner.objective.reads import Block, TeacherCrossEntropy
from learner.objective.stats import TokenStats

VOCABULARY, LENGTH = 3, 3
RESPONSES = list(itertools.product(range(VOCABULARY), repeat=LENGTH))


def stats_of(lp, cross_entropy, mask=None, group=None):
    mask = torch.ones_like(lp, dtype=torch.bool) if mask is None else mask
    zeros = torch.zeros_like(lp)
    return TokenStats(
        mask=mask,
        group=torch.zeros(len(lp), dtype=torch.int64) if group is None else group,
        advantage=zeros,
        lp=lp,
        lp_old=lp.detach(),
        lp_sampler=lp.detach(),
        temperature=zeros + 1,
        entropy=zeros,
        reads={CROSS_ENTROPY: cross_entropy},
    )


@pytest.fixture
def tabular():
    """A policy with one row of logits per prefix, and a fixed teacher per prefix."""
    generator = torch.Generator().manual_seed(3)
    prefixes = [prefix for length in range(LENGTH) for prefix in itertools.product(range(VOCABULARY), repeat=length)]
    logits = torch.randn(len(prefixes), VOCABULARY, generator=generator, dtype=torch.float64).requires_grad_()
    teacher = torch.randn(len(prefixes), VOCABULARY, generator=generator, dtype=torch.float64).softmax(-1)
    row = {prefix: index for index, prefix in enumerate(prefixes)}

    def of(response):
        """lp [tok], cross-entropy [tok]."""
        rows = [row[response[:t]] for t in range(LENGTH)]
        logprobs = logits[rows].log_softmax(-1)
        return logprobs[range(LENGTH), list(response)], -(teacher[rows] * logprobs).sum(-1)

    return logits, of


def expected_cost_gradient(tabular):
    logits, of = tabular
    total = 0.0
    for response in RESPONSES:
        lp, cross_entropy = of(response)
        total = total + lp.sum().exp() * cross_entropy.sum()
    return torch.autograd.grad(total, logits)[0]


@pytest.mark.parametrize("baseline", [False, True])
def test_the_expected_gradient_is_that_of_the_expected_cost(baseline, tabular):
    """Over all pairs of responses, by enumeration: local and future terms, with and without the baseline."""
    logits, of = tabular
    surrogate = ImitateTeacher(baseline=baseline)
    total = 0.0
    for first, second in itertools.product(RESPONSES, repeat=2):
        lp, cross_entropy = (torch.stack(pair) for pair in zip(of(first), of(second), strict=True))
        weight = lp.sum().exp().detach()
        loss, _ = surrogate(stats_of(lp, cross_entropy))
        total = total + weight * loss.sum() / 2
    torch.testing.assert_close(torch.autograd.grad(total, logits)[0], expected_cost_gradient(tabular))


def test_the_baseline_makes_the_gradient_less_noisy(tabular):
    """Its variance over pairs of responses is smaller, which is what it is for."""
    logits, of = tabular

    def variance(surrogate):
        mean, square = 0.0, 0.0
        for first, second in itertools.product(RESPONSES, repeat=2):
            lp, cross_entropy = (torch.stack(pair) for pair in zip(of(first), of(second), strict=True))
            probability = lp.sum().exp().item()
            gradient = torch.autograd.grad(surrogate(stats_of(lp, cross_entropy))[0].sum(), logits)[0]
            mean, square = mean + probability * gradient, square + probability * gradient.square()
        return (square - mean.square()).sum().item()

    assert variance(ImitateTeacher()) < 0.7 * variance(ImitateTeacher(baseline=False))


def test_values_by_hand():
    """Two groups, one of them a single response, one response without feedback, one shorter than the others."""
    cost = torch.tensor([[1.0, 2.0, 4.0], [3.0, 5.0, 0.0], [0.0, 0.0, 0.0], [2.0, 1.0, 1.0]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 1], [1, 1, 1]]).bool()
    lp = torch.full((4, 3), -0.5).masked_fill(~mask, 0.0).requires_grad_()
    loss, measures = ImitateTeacher(future=2.0)(stats_of(lp, cost, mask, torch.tensor([7, 7, 7, 9])))
    # future costs: [6, 4, 0], [5, 0, -], none, [2, 1, 0]; of the others: [5, 0, 0] and [6, 4, -]; alone: 0
    excess = torch.tensor([[1.0, 4.0, 0.0], [-1.0, -4.0, 0.0], [0.0, 0.0, 0.0], [2.0, 1.0, 0.0]])
    torch.testing.assert_close(loss, cost + 2.0 * lp * excess)
    (slope,) = torch.autograd.grad(loss.sum(), lp)
    torch.testing.assert_close(slope, 2.0 * excess)
    assert reduce(combine([measures]), 1) == pytest.approx(
        {"distil/cross_entropy": 19 / 8, "distil/taught_fraction": 8 / 11}
    )


def test_without_a_future_it_is_cross_entropy_bit_for_bit():
    cost = torch.rand(3, 5, generator=torch.Generator().manual_seed(0))
    loss, _ = ImitateTeacher(future=0.0)(stats_of(-torch.rand(3, 5), cost))
    assert torch.equal(loss, cost)


def test_responses_of_one_token_have_no_future():
    loss, _ = ImitateTeacher(baseline=False)(stats_of(torch.tensor([[-1.0]]), torch.tensor([[0.7]])))
    assert loss.tolist() == [[pytest.approx(0.7)]]


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match=r"ImitateTeacher.future weighs a cost and is >= 0, got -1"):
        ImitateTeacher(future=-1)


def block_of(*, temperatures, allowed, teacher=None):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 4, generator=generator, dtype=torch.float64).requires_grad_()
    rows = torch.tensor([0, 0, 1])
    if teacher is None:
        teacher = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    return Block(
        logits=logits,
        temperatures=temperatures,
        allowed=allowed,
        rows=rows,
        tokens=torch.tensor([0, 2, 1]),
        teacher=logits.detach()[rows] if teacher == "same" else teacher,
        taught=torch.tensor([True, False, True]),
    )


ALLOWED = torch.tensor([[True, True, True, True], [True, True, False, True]])


@pytest.mark.parametrize("temperatures", [None, torch.tensor([[0.5], [2.0]], dtype=torch.float64)])
@pytest.mark.parametrize("allowed", [None, ALLOWED])
def test_the_cross_entropy_against_a_slow_sum(temperatures, allowed):
    """By hand over the allowed tokens, both distributions at the recorded temperature; 0 without feedback."""
    block = block_of(temperatures=temperatures, allowed=allowed)
    found = TeacherCrossEntropy()(block)
    for pick, row in enumerate(block.rows.tolist()):
        heat = 1.0 if temperatures is None else temperatures[row].item()
        inside = [a for a in range(4) if allowed is None or allowed[row, a]]
        ours, theirs = (
            {a: (values[a] / heat).exp().item() / sum((values[b] / heat).exp().item() for b in inside) for a in inside}
            for values in (block.logits[row], block.teacher[pick])
        )
        expected = -sum(theirs[a] * torch.tensor(ours[a]).log().item() for a in inside) if block.taught[pick] else 0.0
        assert found[pick].item() == pytest.approx(expected, rel=1e-5)
    (slope,) = torch.autograd.grad(found.sum(), block.logits)
    assert slope.isfinite().all()


@pytest.mark.parametrize("allowed", [None, ALLOWED])
def test_a_teacher_that_says_the_same_pulls_at_nothing(allowed):
    """Feedback that changes nothing: the cross-entropy is the entropy, and its gradient is 0."""
    block = block_of(temperatures=torch.tensor([[0.7], [1.3]], dtype=torch.float64), allowed=allowed, teacher="same")
    found = TeacherCrossEntropy()(block)
    logprobs = block.logprobs(block.temperatures).detach()
    entropy = -torch.xlogy(logprobs.exp(), logprobs.exp()).sum(-1)
    torch.testing.assert_close(found[[0, 2]].detach(), entropy[[0, 1]])
    (slope,) = torch.autograd.grad(found.sum(), block.logits)
    torch.testing.assert_close(slope, torch.zeros_like(slope))
