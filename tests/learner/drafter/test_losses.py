"""The drafter's losses: values and gradients by hand."""

import math

import pytest
import torch

from learner.drafter.losses import acceptance, cross_entropy, end_to_end, kl, soft_cross_entropy, total_variation

P = torch.tensor([[[0.5, 0.3, 0.2]], [[0.6, 0.3, 0.1]]])  # [draft, chain, vocab]
Q = torch.tensor([[[0.2, 0.5, 0.3]], [[0.1, 0.1, 0.8]]])
TOKENS = torch.tensor([[0], [1]])
ALL = torch.tensor([[True], [True]])


def value(loss, counted=ALL) -> float:
    return float(loss(P, Q.log(), TOKENS, counted))


def test_values_by_hand():
    """sum min(p, q) is 0.2 + 0.3 + 0.2 = 0.7 and 0.1 + 0.1 + 0.1 = 0.3."""
    assert acceptance(P, Q.log()).flatten().tolist() == pytest.approx([0.7, 0.3])
    assert value(total_variation) == pytest.approx(1 - (0.7 + 0.3) / 2)
    assert value(end_to_end) == pytest.approx(1 - (0.7 + 0.7 * 0.3) / 2)
    assert value(cross_entropy) == pytest.approx(-(math.log(0.2) + math.log(0.1)) / 2)
    crossed = [-sum(p * math.log(q) for p, q in zip(P[i, 0], Q[i, 0], strict=True)) for i in range(2)]
    entropies = [-sum(p * math.log(p) for p in P[i, 0]) for i in range(2)]
    assert value(soft_cross_entropy) == pytest.approx(sum(crossed) / 2)
    assert value(kl) == pytest.approx((sum(crossed) - sum(entropies)) / 2)


def test_a_chain_that_is_cut_short_counts_its_own_drafts():
    """Only the first draft is of a response token: what is lost is 1 - 0.7, not (1 + 0.3) / 2."""
    first = torch.tensor([[True], [False]])
    assert value(end_to_end, first) == pytest.approx(0.3)
    assert value(total_variation, first) == pytest.approx(0.3)


def test_the_gradient_of_total_variation_by_hand():
    """d/dz_j = -q_j (1[q_j < p_j] - sum_{q < p} q): for the first row only token 0 has q < p, so S = 0.2."""
    logits = Q[:1].log().requires_grad_()
    total_variation(P[:1], logits, TOKENS[:1], ALL[:1]).backward()
    expected = [-0.2 * (1 - 0.2), 0.5 * 0.2, 0.3 * 0.2]
    assert logits.grad.flatten().tolist() == pytest.approx(expected, abs=1e-6)


def test_the_gradients_of_kl_and_soft_cross_entropy_are_q_minus_p():
    """For every row, divided by the number of rows."""
    for loss in (kl, soft_cross_entropy):
        logits = Q.log().requires_grad_()
        loss(P, logits, TOKENS, ALL).backward()
        assert torch.allclose(logits.grad, (Q - P) / 2, atol=1e-6)


def test_the_teacher_gets_no_gradient():
    """Whatever the loss."""
    for loss in (cross_entropy, soft_cross_entropy, kl, total_variation, end_to_end):
        p, logits = P.clone().requires_grad_(), Q.log().requires_grad_()
        loss(p, logits, TOKENS, ALL).backward()
        assert p.grad is None
        assert logits.grad is not None
