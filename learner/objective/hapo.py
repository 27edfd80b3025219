"""HAPO: clip range and credit of each token follow how unsure the policy was there, against the batch's pivot."""

from dataclasses import dataclass

import torch
from torch import Tensor

from learner.measures import Measures, mean_of
from learner.objective.stats import TokenStats
from rollout.draw.temperature.log_pivot import ENTROPY_FLOOR, PivotStatistics


def normalised_entropy(stats: TokenStats, quantile: float, released_sign: bool) -> Tensor:
    """h_hat [seq, tok] in [-1, 1], 0 at the pivot and outside the mask; see PivotStatistics for the rule.

    The statistics are those of the micro-batch, as in the release. `released_sign` makes every h_hat >= 0, as the
    release does by dividing the negative branch by a negative number.
    """
    entropy = stats.entropy.detach()
    if not stats.mask.any():
        return torch.zeros_like(entropy)
    found = PivotStatistics.of(entropy[stats.mask], quantile)
    if found.rms == 0.0:
        return torch.zeros_like(entropy)
    deviation = (entropy.clamp_min(ENTROPY_FLOOR).log() - found.pivot) / found.rms
    negative = -found.scale_negative if released_sign else found.scale_negative
    h = torch.where(deviation > 0, deviation / found.scale_positive, deviation / negative)
    return h.clamp(-1.0, 1.0).masked_fill(~stats.mask, 0.0)


@dataclass(frozen=True, kw_only=True)
class EntropyClipped:
    """The PPO surrogate whose clip range and advantage depend on the token's normalised entropy h_hat.

    Rule    h <= 0: eps_lo grows to eps_lo (1 - widen h); h > 0: eps_hi grows to eps_hi (1 + widen h). Neutral zone
            N = (1 - eps_lo / 2, 1 + eps_hi / 2) with the grown ranges. A is multiplied by 1 + redistribute * h where
            h > 0 and the ratio is outside N, and where h <= 0 and the ratio is inside N; then dual-clipped PPO.
    Source  HAPO, arXiv:2509.16591, grade A-code (starriver030515/HAPO, ada_clip and ada_advantage), intended sign.
    Units   eps: distance of the ratio from 1.  widen (alpha), redistribute (beta): 0 switches the half off.
    Traps   with one minibatch per batch every ratio is 1, inside N: sure tokens lose credit, unsure ones gain none.
    """

    eps_lo: float = 0.2
    eps_hi: float = 0.2
    widen: float = 1.0
    redistribute: float = 1.0
    dual: float = 10.0
    quantile: float = 0.8
    released_sign: bool = False

    def __post_init__(self) -> None:
        if not (0.0 <= self.eps_lo <= 1.0 and self.eps_hi >= 0.0):
            raise ValueError(
                f"EntropyClipped needs 0 <= eps_lo <= 1 and eps_hi >= 0, got {self.eps_lo} and {self.eps_hi}"
            )
        if self.widen < 0.0 or not 0.0 <= self.redistribute <= 1.0:
            raise ValueError(
                f"EntropyClipped needs widen >= 0 and 0 <= redistribute <= 1, got {self.widen} and {self.redistribute}"
            )
        if not (self.dual > 1.0 and 0.0 <= self.quantile <= 1.0):
            raise ValueError(f"EntropyClipped needs dual > 1 and a quantile, got {self.dual} and {self.quantile}")

    def __call__(self, stats: TokenStats) -> tuple[Tensor, Measures]:
        """float32 [seq, tok], to be minimised."""
        h = normalised_entropy(stats, self.quantile, self.released_sign)
        eps_lo = self.eps_lo * (1.0 - self.widen * h.clamp_max(0.0))
        eps_hi = self.eps_hi * (1.0 + self.widen * h.clamp_min(0.0))
        ratio = (stats.lp - stats.lp_old).exp()
        settled = ratio.detach()
        inside = (settled > 1.0 - eps_lo / 2) & (settled < 1.0 + eps_hi / 2)
        credit = torch.where(inside ^ (h > 0), 1.0 + self.redistribute * h, 1.0)
        advantage = stats.advantage * credit
        free = -advantage * ratio
        bound = -advantage * torch.minimum(torch.maximum(ratio, 1.0 - eps_lo), 1.0 + eps_hi)
        loss = torch.maximum(free, bound)
        ceiling = -self.dual * advantage
        clipped = (bound > free) | ((advantage < 0) & (loss > ceiling))
        loss = torch.where(advantage < 0, torch.minimum(loss, ceiling), loss)
        return loss, {"train/clip_fraction": mean_of(clipped, stats.mask)}
