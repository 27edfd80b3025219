"""Surrogates: the per-token loss whose gradient is the policy gradient, and how far one batch may push it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from learner.measures import Measures, mean_of
from learner.objective.stats import TokenStats

MAX_SEQUENCE_LOG_RATIO = 10.0  # GSPO's, above which exp says only "very large"
MAX_TOKEN_LOG_RATIO = 20.0  # CISPO's


@dataclass(frozen=True, kw_only=True)
class Clipped:
    """The PPO surrogate with separate clip ranges, optionally bounded for bad samples ("dual clip").

    Rule    l = max(-A r, -A clip(r, 1 - eps_lo, 1 + eps_hi)), r = exp(lp - lp_old); for A < 0 then min(l, -dual * A).
    Source  PPO, arXiv:1707.06347; clip-higher (eps_hi > eps_lo), arXiv:2503.14476; dual clip, arXiv:1912.09729; K
    Units   eps: distance of the ratio from 1.  dual: a ratio > 1, None for no bound.
    Traps   with one minibatch per train batch r is exactly 1: nothing clips, and l is plain policy gradient.
    """

    eps_lo: float = 0.2
    eps_hi: float = 0.2
    dual: float | None = None

    def __post_init__(self) -> None:
        _check_range(self)
        if self.dual is not None and not self.dual > 1.0:
            raise ValueError(f"Clipped.dual is a ratio > 1 or null, got {self.dual}")

    def __call__(self, stats: TokenStats) -> tuple[Tensor, Measures]:
        """float32 [seq, tok], to be minimised."""
        ratio = (stats.lp - stats.lp_old).exp()
        free = -stats.advantage * ratio
        bound = -stats.advantage * ratio.clamp(1.0 - self.eps_lo, 1.0 + self.eps_hi)
        loss = torch.maximum(free, bound)
        clipped = bound > free
        if self.dual is not None:
            ceiling = -self.dual * stats.advantage
            clipped = clipped | ((stats.advantage < 0) & (loss > ceiling))
            loss = torch.where(stats.advantage < 0, torch.minimum(loss, ceiling), loss)
        return loss, {"train/clip_fraction": mean_of(clipped, stats.mask)}


@dataclass(frozen=True, kw_only=True)
class SequenceRatio:
    """The PPO surrogate with one ratio per response: what a whole answer became likelier by, per token.

    Rule    s_i = exp(min(mean_t(lp - lp_old), 10)); l = max(-A s, -A clip(s, 1 - eps_lo, 1 + eps_hi)), where the value
            of s is s_i and its gradient that of each token's lp: s_it = sg[s_i] exp(lp - sg[lp])
    Source  GSPO, arXiv:2507.18071, grade A-code (verl core_algos.py, "gspo"); eps 3e-4 and 4e-4, K.
    Traps   eps is a thousandth of PPO's, because the mean hardly moves; belongs with aggregate SequenceMean.
    """

    eps_lo: float = 3e-4
    eps_hi: float = 4e-4

    def __post_init__(self) -> None:
        _check_range(self)

    def __call__(self, stats: TokenStats) -> tuple[Tensor, Measures]:
        """float32 [seq, tok], to be minimised."""
        moved = (stats.lp.detach() - stats.lp_old).masked_fill(~stats.mask, 0.0)
        mean = moved.sum(1, keepdim=True) / stats.mask.sum(1, keepdim=True).clamp_min(1)
        ratio = (mean + stats.lp - stats.lp.detach()).clamp_max(MAX_SEQUENCE_LOG_RATIO).exp()
        free = -stats.advantage * ratio
        bound = -stats.advantage * ratio.clamp(1.0 - self.eps_lo, 1.0 + self.eps_hi)
        return torch.maximum(free, bound), {"train/clip_fraction": mean_of(bound > free, stats.mask)}


@dataclass(frozen=True, kw_only=True)
class ClippedWeight:
    """REINFORCE with a clipped importance weight: clipping bounds a token's weight and never removes its gradient.

    Rule    l = -sg[clip(r, 1 - eps_lo, 1 + eps_hi)] * A * lp, r = exp(clip(lp - lp_old, -20, 20))
    Source  CISPO, arXiv:2506.13585, grade A-code (verl core_algos.py, "cispo"); eps_lo = 1 leaves the low side free, K.
    Traps   the value is not a loss one can compare: it is A * lp, only its gradient means something.
    """

    eps_lo: float = 1.0
    eps_hi: float = 0.28

    def __post_init__(self) -> None:
        _check_range(self)

    def __call__(self, stats: TokenStats) -> tuple[Tensor, Measures]:
        """float32 [seq, tok], to be minimised."""
        log_ratio = (stats.lp.detach() - stats.lp_old).clamp(-MAX_TOKEN_LOG_RATIO, MAX_TOKEN_LOG_RATIO)
        ratio = log_ratio.exp()
        weight = ratio.clamp(1.0 - self.eps_lo, 1.0 + self.eps_hi)
        return -weight * stats.advantage * stats.lp, {"train/clip_fraction": mean_of(weight != ratio, stats.mask)}


def _check_range(piece: "Clipped | SequenceRatio | ClippedWeight") -> None:
    if not (0.0 <= piece.eps_lo <= 1.0 and piece.eps_hi >= 0.0):
        raise ValueError(
            f"{type(piece).__name__} needs 0 <= eps_lo <= 1 and eps_hi >= 0, got {piece.eps_lo} and {piece.eps_hi}"
        )
