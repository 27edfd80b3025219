"""Surrogates: the per-token loss whose gradient is the policy gradient, and how far one batch may push it."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from learner.measures import Measures, mean_of
from learner.objective.reads import AnchorRatio, Read
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
        loss, clipped = self.of((stats.lp - stats.lp_old).exp(), stats.advantage)
        return loss, {"train/clip_fraction": mean_of(clipped, stats.mask)}

    def of(self, ratio: Tensor, advantage: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and where it was clipped, bool; all [seq, tok]."""
        free = -advantage * ratio
        bound = -advantage * ratio.clamp(1.0 - self.eps_lo, 1.0 + self.eps_hi)
        loss = torch.maximum(free, bound)
        clipped = bound > free
        if self.dual is not None:
            ceiling = -self.dual * advantage
            clipped = clipped | ((advantage < 0) & (loss > ceiling))
            loss = torch.where(advantage < 0, torch.minimum(loss, ceiling), loss)
        return loss, clipped


@dataclass(frozen=True, kw_only=True)
class Anchored(Clipped):
    """A punished token hands its probability to what the reference would have said there, and not to anything.

    Rule    A >= 0: Clipped. A < 0: push r - pull r_anchor in the place of r, r_anchor = reads.AnchorRatio with
            gradient. clip "rho_only": push * Clipped(r) + A pull r_anchor; "whole": Clipped(push r - pull r_anchor).
    Source  APO, arXiv:2602.05717, grade A'-third: push (lambda) 1.05, pull (beta) 0.1. What is clipped is not in any
            text that was read; rho_only, which keeps pulling after the push is clipped, is our choice.
    Traps   a second model in memory. The pull grows with r_anchor: "rho_only" bounds it only by AnchorRatio's, "whole"
            ends both once push r - pull r_anchor < 1 - eps_lo. push = 1 and pull = 0 is Clipped to the bit.
    """

    push: float = 1.05
    pull: float = 0.1
    clip: Literal["rho_only", "whole"] = "rho_only"
    anchor: AnchorRatio = field(default_factory=AnchorRatio)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.push > 0.0 and self.pull >= 0.0):
            raise ValueError(f"Anchored needs push > 0 and pull >= 0, got {self.push} and {self.pull}")
        if self.clip not in ("rho_only", "whole"):
            raise ValueError(f"Anchored.clip is 'rho_only' or 'whole', got {self.clip!r}")
        if not isinstance(self.anchor, AnchorRatio):
            raise ValueError(
                f"Anchored.anchor is the AnchorRatio that reads the reference's likeliest tokens, got {self.anchor!r}"
            )

    @property
    def needs(self) -> frozenset[Read]:
        return frozenset({self.anchor})

    def __call__(self, stats: TokenStats) -> tuple[Tensor, Measures]:
        """float32 [seq, tok], to be minimised."""
        ratio, anchor = (stats.lp - stats.lp_old).exp(), stats.reads[self.anchor]
        punished = stats.advantage < 0
        if self.clip == "whole":
            ratio = torch.where(punished, self.push * ratio - self.pull * anchor, ratio)
            loss, clipped = self.of(ratio, stats.advantage)
        else:
            loss, clipped = self.of(ratio, stats.advantage)
            loss = torch.where(punished, self.push * loss + stats.advantage * self.pull * anchor, loss)
        return loss, {
            "train/clip_fraction": mean_of(clipped, stats.mask),
            "anchor/ratio": mean_of(anchor, stats.mask),
            "anchor/clip_fraction": mean_of(clipped, stats.mask & punished),
        }


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
