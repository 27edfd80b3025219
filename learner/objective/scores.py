"""Scores: one number per token that says what a gradient step on it would do to the entropy. Selectors rank by them.

    covariance      (A - mean A) (lp - mean lp)       > 0: the step makes a likely token likelier, the entropy falls
    surplus         p (lp + H)                        > 0: the token is likelier than the policy's typical token
    entropy_change  |A| ratio (1 - p) |lp + H|        size of the first-order change of the entropy

All are detached, and meaningful where `stats.mask` is true. Means are over the trained tokens of the micro-batch, as in
the released code: they depend on `learner.micro_batch_tokens`. p is at the recorded temperature, H at T = 1: the papers
sample at T = 1, where both are of one distribution.
"""

import torch
from torch import Tensor

from learner.objective.stats import TokenStats


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Scalar; 0 where nothing is chosen."""
    return values.masked_fill(~mask, 0.0).sum() / mask.sum().clamp_min(1)


def covariance(stats: TokenStats) -> Tensor:
    """[seq, tok]. Source: arXiv:2505.22617, grade A-code (PRIME-RL/Entropy-Mechanism-of-RL, core_algos.py)."""
    advantage, lp = stats.advantage.detach(), stats.lp.detach()
    return (advantage - masked_mean(advantage, stats.mask)) * (lp - masked_mean(lp, stats.mask))


def surplus(lp: Tensor, entropy: Tensor) -> Tensor:
    """lp, entropy [seq, tok] nats -> [seq, tok]. Source: arXiv:2602.03392, grade A-code (Trinity-RFT, clipb)."""
    lp, entropy = lp.detach(), entropy.detach()
    return lp.exp() * (entropy + lp)


def entropy_change(stats: TokenStats) -> Tensor:
    """[seq, tok], 0 where it is not finite. Source: STEER, arXiv:2510.10150, grade A-code (zz-haooo/STEER)."""
    lp, entropy = stats.lp.detach(), stats.entropy.detach()
    ratio = (lp - stats.lp_old).exp()
    change = stats.advantage.abs() * ratio * (1.0 - lp.exp()) * (lp + entropy).abs()
    return torch.where(change.isfinite(), change, 0.0)
