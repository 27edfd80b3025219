"""How far the drafter's distribution q is from the policy's p, over the K drafts of a chain. Pure.

    p [draft, chain, vocab], the drafter's logits [draft, chain, vocab], counted [draft, chain] --> one number

A chain starts at every position of a sample; draft j of it was made from j drafted (here: sampled) tokens. A draft is
accepted with probability alpha = sum_v min(p_v, q_v) = 1 - TV(p, q), and only if all drafts before it were.
p is never differentiated.

Source  TV, end to end: Bebop, arXiv:2606.12370, grade A-paper. CE, KL: as everywhere.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # (p, logits, tokens, counted) -> scalar


def cross_entropy(p: Tensor, logits: Tensor, tokens: Tensor, counted: Tensor) -> Tensor:
    """-ln q(token) of the tokens drawn, int64 [draft, chain]: noisy, but needs no p. Nats."""
    return _mean(-logits.log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1), counted)


def soft_cross_entropy(p: Tensor, logits: Tensor, tokens: Tensor, counted: Tensor) -> Tensor:
    """-sum_v p_v ln q_v: the expectation of `cross_entropy`, and the gradient of the KL divergence. Nats."""
    return _mean(-(p.detach() * logits.log_softmax(-1)).sum(-1), counted)


def kl(p: Tensor, logits: Tensor, tokens: Tensor, counted: Tensor) -> Tensor:
    """KL(p || q) = sum_v p_v ln(p_v / q_v). Nats."""
    p = p.detach()
    return _mean((torch.xlogy(p, p) - p * logits.log_softmax(-1)).sum(-1), counted)


def total_variation(p: Tensor, logits: Tensor, tokens: Tensor, counted: Tensor) -> Tensor:
    """1 - sum_v min(p_v, q_v), the probability that a draft is rejected.

    Traps   its gradient -q_j (1[q_j < p_j] - sum_{q < p} q) is weak while p and q barely overlap: warm up with
            `soft_cross_entropy` (from scratch cross-entropy reached 0.96 where this reached 0.76: ours).
    """
    return _mean(1.0 - acceptance(p, logits), counted)


def end_to_end(p: Tensor, logits: Tensor, tokens: Tensor, counted: Tensor) -> Tensor:
    """1 - (1 / K) sum_j prod_{i <= j} alpha_i: the share of K drafts that is lost, as a chain ends with its first loss.

    Chains that are cut short (fewer than K counted drafts, the first ones) are divided by their own length.
    """
    kept = torch.where(counted, acceptance(p, logits), 0.0).cumprod(0).sum(0)
    drafts = counted.sum(0)
    return (1.0 - kept / drafts.clamp_min(1))[drafts > 0].mean()


def acceptance(p: Tensor, logits: Tensor) -> Tensor:
    """alpha = sum_v min(p_v, q_v) in [0, 1], [draft, chain]."""
    return torch.minimum(p.detach(), logits.softmax(-1)).sum(-1)


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    return values[counted].mean()


LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "soft_cross_entropy": soft_cross_entropy,
    "kl": kl,
    "total_variation": total_variation,
    "end_to_end": end_to_end,
}
