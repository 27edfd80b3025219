"""Corrections for what the engine drew differently than the learner would: whole-response weights, and masks.

u = lp_old - lp_sampler, per token. `TruncatedImportance` (weights.py) is the mildest; these act on whole responses or
drop what is too far away. Weights and masks compose: put any of them under `weights` and `select`.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from learner.measures import Measures, mean_of
from learner.objective.stats import TokenStats
from learner.objective.weights import MAX_LOG_RATIO


def _log_ratio(stats: TokenStats) -> Tensor:
    u = (stats.lp_old - stats.lp_sampler).detach().clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return u.masked_fill(~stats.mask, 0.0)


def _per_sequence(values: Tensor, stats: TokenStats, of: str) -> Tensor:
    """[seq, 1]: sum or mean over the trained tokens of each response."""
    total = values.sum(1, keepdim=True)
    return total / stats.mask.sum(1, keepdim=True).clamp_min(1) if of == "mean" else total


@dataclass(frozen=True, kw_only=True)
class SequenceImportance:
    """One importance weight for all tokens of a response.

    Rule    w_i = min(exp(sum_t u), cap)
    Source  sequence-level TIS, verl docs/algo/rollout_corr_math.md, A-code (there 2 to 10).
    Traps   the sum grows with length: long responses are all at the cap or at 0.
    """

    cap: float = 2.0

    def __post_init__(self) -> None:
        if not self.cap > 0.0:
            raise ValueError(f"SequenceImportance.cap is a ratio > 0, got {self.cap}")

    def __call__(self, stats: TokenStats) -> tuple[Tensor, Measures]:
        """float32 [seq, tok]."""
        total = _per_sequence(_log_ratio(stats), stats, "sum").clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        weight = total.exp().expand_as(stats.lp_old)
        return weight.clamp_max(self.cap), {"tis/clipped_fraction": mean_of(weight > self.cap, stats.mask)}


@dataclass(frozen=True, kw_only=True)
class RatioMask:
    """Train only what the learner would have drawn about as often as the engine did.

    Rule    keep iff low <= exp(u) <= high, u of the token, or the sum or mean over its response
    Source  verl docs/algo/rollout_corr_math.md, A-code: "token" is IcePop, "sum" sequence MIS, "mean" Geo-RS.
    Units   low, high: ratios. Typical: token 0.5 to 5, sum 0 to 2, mean 1 +- 1e-3 to 1e-2.
    Traps   dropped tokens stay in the denominator of the loss.
    """

    of: Literal["token", "sum", "mean"]
    low: float
    high: float

    def __post_init__(self) -> None:
        if self.of not in ("token", "sum", "mean"):
            raise ValueError(f"RatioMask.of is 'token', 'sum' or 'mean', got {self.of!r}")
        if not 0.0 <= self.low <= self.high:
            raise ValueError(f"RatioMask needs 0 <= low <= high, got {self.low} and {self.high}")

    def __call__(self, stats: TokenStats) -> Tensor:
        """bool [seq, tok]."""
        u = _log_ratio(stats)
        if self.of != "token":
            u = _per_sequence(u, stats, self.of).expand_as(u)
        ratio = u.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
        return stats.mask & (ratio >= self.low) & (ratio <= self.high)


@dataclass(frozen=True, kw_only=True)
class SequenceKlMask:
    """Train only responses on which engine and learner agree on average.

    Rule    keep iff mean_t(exp(u) - u - 1) <= limit, the k3 estimate of KL(engine || learner)
    Source  K3-RS, verl docs/algo/rollout_corr_math.md, A-code.
    Units   limit: nats per token; typical 1e-3 to 1e-2.
    """

    limit: float = 0.01

    def __post_init__(self) -> None:
        if not self.limit >= 0.0:
            raise ValueError(f"SequenceKlMask.limit is nats >= 0, got {self.limit}")

    def __call__(self, stats: TokenStats) -> Tensor:
        """bool [seq, tok]."""
        u = _log_ratio(stats)
        return stats.mask & (_per_sequence(torch.expm1(u) - u, stats, "mean") <= self.limit)
