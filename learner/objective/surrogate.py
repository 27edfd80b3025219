"""Surrogates: the per-token loss whose gradient is the policy gradient, and how far one batch may push it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from learner.measures import Measures, mean_of
from learner.objective.stats import TokenStats


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
        if not (0.0 <= self.eps_lo <= 1.0 and self.eps_hi >= 0.0):
            raise ValueError(f"Clipped needs 0 <= eps_lo <= 1 and eps_hi >= 0, got {self.eps_lo} and {self.eps_hi}")
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
