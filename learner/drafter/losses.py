"""How far the drafter's distribution q is from the policy's p, over the K drafts of a chain. Pure.

    Chains (p, q, [draft, chain, vocab]) --a loss--> [draft, chain], 0 where nothing counts; reduced over what counts

A chain starts at every position of a sample; draft j of it was made from j drafted (here: sampled) tokens. A draft is
accepted with probability alpha = sum_v min(p_v, q_v) = 1 - TV(p, q), and only if all drafts before it were.
p is never differentiated. Each loss is the mean over the counted drafts of its values.

Source  TV, end to end: Bebop, arXiv:2606.12370, grade A-paper. CE, KL: as everywhere.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Chains(NamedTuple):
    """What is known of the drafts of some chains.

    p        float32 [draft, chain, vocab] what the policy draws the token from: tempered, inside what truncation kept
    logits   float32 [draft, chain, vocab] the drafter's, tempered
    q        float32 [draft, chain, vocab] what the engine draws the draft from: softmax(logits), cut where it cuts
    tokens   int64   [draft, chain] that the policy drew
    counted  bool    [draft, chain] the policy drew it and all before it in the chain; the first ones of each chain
    """

    p: Tensor
    logits: Tensor
    q: Tensor
    tokens: Tensor
    counted: Tensor


Loss = Callable[[Chains], Tensor]


def cross_entropy(chains: Chains) -> Tensor:
    """-ln q(token) of the tokens drawn: noisy, but needs no p. Nats. Of the logits, as the next two: uncut."""
    return _counted(-chains.logits.log_softmax(-1).gather(-1, chains.tokens.unsqueeze(-1)).squeeze(-1), chains)


def soft_cross_entropy(chains: Chains) -> Tensor:
    """-sum_v p_v ln q_v: the expectation of `cross_entropy`, and the gradient of the KL divergence. Nats."""
    return _counted(-(chains.p.detach() * chains.logits.log_softmax(-1)).sum(-1), chains)


def kl(chains: Chains) -> Tensor:
    """KL(p || q) = sum_v p_v ln(p_v / q_v). Nats."""
    p = chains.p.detach()
    return _counted((torch.xlogy(p, p) - p * chains.logits.log_softmax(-1)).sum(-1), chains)


def total_variation(chains: Chains) -> Tensor:
    """1 - sum_v min(p_v, q_v), the probability that a draft is rejected.

    Traps   its gradient -q_j (1[q_j < p_j] - sum_{q < p} q) is weak while p and q barely overlap: warm up with
            `soft_cross_entropy` (from scratch cross-entropy reached 0.96 where this reached 0.76: ours).
    """
    return _counted(1.0 - acceptance(chains), chains)


def end_to_end(chains: Chains) -> Tensor:
    """1 - prod_{i <= j} alpha_i, the probability that draft j is lost, as a chain ends with its first loss.

    Its mean over a chain of K drafts is Bebop's 1 - (1 / K) sum_j prod_{i <= j} alpha_i; a chain that the end of the
    response cuts short counts with the drafts it has.
    """
    return _counted(1.0 - torch.where(chains.counted, acceptance(chains), 0.0).cumprod(0), chains)


def acceptance(chains: Chains) -> Tensor:
    """alpha = sum_v min(p_v, q_v) in [0, 1], [draft, chain]."""
    return torch.minimum(chains.p.detach(), chains.q).sum(-1)


def _counted(values: Tensor, chains: Chains) -> Tensor:
    return torch.where(chains.counted, values, 0.0)


LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "soft_cross_entropy": soft_cross_entropy,
    "kl": kl,
    "total_variation": total_variation,
    "end_to_end": end_to_end,
}
