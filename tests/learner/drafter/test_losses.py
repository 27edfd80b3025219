"""The drafter's losses: values and gradients by hand."""

import math

import pytest
import torch

from learner.drafter.losses import (
    LOSSES,
    Chains,
    acceptance,
    cross_entropy,
    end_to_end,
    kl,
    soft_cross_entropy,
    total_variation,
)

P = torch.tensor([[[0.5, 0.3, 0.2]], [[0.6, 0.3, 0.1]]])  # [draft, chain, vocab]
Q = torch.tensor([[[0.2, 0.5, 0.3]], [[0.1, 0.1, 0.8]]])
TOKENS = torch.tensor([[0], [1]])
ALL = torch.tensor([[True], [True]])


def chains(p=P, logits=None, tokens=TOKENS, counted=ALL) -> Chains:
    logits = Q.log() if logits is None else logits
    return Chains(p=p, logits=logits, q=logits.softmax(-1), tokens=tokens, counted=counted)


def value(loss, counted=ALL) -> float:
    """Its mean over the counted drafts."""
    return float(loss(chains(counted=counted)).sum() / counted.sum())


def test_values_by_hand():
    """sum min(p, q) is 0.2 + 0.3 + 0.2 = 0.7 and 0.1 + 0.1 + 0.1 = 0.3."""
    assert acceptance(chains()).flatten().tolist() == pytest.approx([0.7, 0.3])
    assert value(total_variation) == pytest.approx(1 - (0.7 + 0.3) / 2)
    assert value(end_to_end) == pytest.approx(1 - (0.7 + 0.7 * 0.3) / 2)
    assert value(cross_entropy) == pytest.approx(-(math.log(0.2) + math.log(0.1)) / 2)
    crossed = [-sum(p * math.log(q) for p, q in zip(P[i, 0], Q[i, 0], strict=True)) for i in range(2)]
    entropies = [-sum(p * math.log(p) for p in P[i, 0]) for i in range(2)]
    assert value(soft_cross_entropy) == pytest.approx(sum(crossed) / 2)
    assert value(kl) == pytest.approx((sum(crossed) - sum(entropies)) / 2)


def test_a_chain_that_is_cut_short_counts_its_own_drafts():
    """Only the first draft is of a response token: what is lost is 1 - 0.7, not (0.3 + 0.79) / 2."""
    first = torch.tensor([[True], [False]])
    assert value(end_to_end, first) == pytest.approx(0.3)
    assert value(total_variation, first) == pytest.approx(0.3)


def test_the_gradient_of_total_variation_by_hand():
    """d/dz_j = -q_j (1[q_j < p_j] - sum_{q < p} q): for the first row only token 0 has q < p, so S = 0.2."""
    logits = Q[:1].log().requires_grad_()
    total_variation(chains(P[:1], logits, TOKENS[:1], ALL[:1])).sum().backward()
    expected = [-0.2 * (1 - 0.2), 0.5 * 0.2, 0.3 * 0.2]
    assert logits.grad.flatten().tolist() == pytest.approx(expected, abs=1e-6)


def test_the_gradients_of_kl_and_soft_cross_entropy_are_q_minus_p():
    """For every row."""
    for loss in (kl, soft_cross_entropy):
        logits = Q.log().requires_grad_()
        loss(chains(logits=logits)).sum().backward()
        assert torch.allclose(logits.grad, Q - P, atol=1e-6)


def test_the_gradient_of_end_to_end_by_hand():
    """(1 - a1) + (1 - a1 a2): da1 counts 1 + a2 times, da2 a1 times, each with the gradient of total variation."""
    logits = Q.log().requires_grad_()
    end_to_end(chains(logits=logits)).sum().backward()
    each = torch.tensor([[[-0.2 * (1 - 0.2), 0.5 * 0.2, 0.3 * 0.2]], [[-0.1 * (1 - 0.2), -0.1 * (1 - 0.2), 0.8 * 0.2]]])
    assert torch.allclose(logits.grad, each * torch.tensor([1 + 0.3, 0.7])[:, None, None], atol=1e-6)


def test_end_to_end_of_one_draft_is_total_variation():
    """To the bit."""
    one = Chains(p=P[:1], logits=Q[:1].log(), q=Q[:1], tokens=TOKENS[:1], counted=ALL[:1])
    assert torch.equal(end_to_end(one), total_variation(one))


@pytest.mark.parametrize("loss", [kl, total_variation, end_to_end])
def test_a_drafter_that_is_the_policy_loses_nothing(loss):
    """p = q: 0, and no gradient to speak of."""
    logits = P.log().requires_grad_()
    values = loss(chains(logits=logits))
    values.sum().backward()
    assert values.abs().max() < 1e-6
    if loss is kl:  # total variation has a kink here
        assert logits.grad.abs().max() < 1e-6


def test_what_the_engine_cuts_off_is_never_drafted():
    """q of total variation is the cut one, that of the entropies is not: a token it cuts may still be learned."""
    cut = Chains(
        p=P, logits=Q.log(), q=torch.tensor([[[0.0, 0.625, 0.375]], [[0.0, 0.0, 1.0]]]), tokens=TOKENS, counted=ALL
    )
    assert acceptance(cut).flatten().tolist() == pytest.approx([0.3 + 0.2, 0.1])
    assert float(cross_entropy(cut).sum()) == pytest.approx(math.log(5.0) + math.log(10.0))


@pytest.mark.parametrize("loss", LOSSES.values())
def test_the_teacher_gets_no_gradient(loss):
    """Whatever the loss."""
    p, logits = P.clone().requires_grad_(), Q.log().requires_grad_()
    loss(chains(p, logits)).sum().backward()
    assert p.grad is None
    assert logits.grad is not None
