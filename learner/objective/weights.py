"""Token weights: detached factors >= 0 on the policy gradient of each token. Several weights multiply."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from learner.measures import Measures, mean_of
from learner.objective.observations import AttentionEntropy
from learner.objective.scores import entropy_change
from learner.objective.stats import TokenStats

# exp of more than this says only "very large" and would overflow float32 at 88.
MAX_LOG_RATIO = 20.0
SMALLEST_CHANGE = 0.02  # STEER's: below it the exponential weights stop following the batch's maximum


@dataclass(frozen=True, kw_only=True)
class TruncatedImportance:
    """Correct for tokens that were drawn by something else than the learner's policy: other weights, another engine.

    Rule    w = min(exp(lp_old - lp_sampler), cap), multiplied in after clipping.
    Source  token-level TIS, verl docs/algo/rollout_corr_math.md, A-code; cap 2.0 is its default.
    Units   log-probabilities in nats at the recorded temperature.  cap: ratio, > 0.
    Traps   lp_old is this learner's, so stale tokens are corrected towards the current policy as well.
    """

    cap: float = 2.0

    def __post_init__(self) -> None:
        if not self.cap > 0.0:
            raise ValueError(f"TruncatedImportance.cap is a ratio > 0, got {self.cap}")

    def __call__(self, stats: TokenStats) -> tuple[Tensor, Measures]:
        """float32 [seq, tok]."""
        log_ratio = (stats.lp_old - stats.lp_sampler).detach().clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        ratio = log_ratio.exp()
        return ratio.clamp_max(self.cap), {"tis/clipped_fraction": mean_of(ratio > self.cap, stats.mask)}


@dataclass(frozen=True, kw_only=True)
class EntropyChangeDamping:
    """The more a token's step would change the entropy, the less it counts.

    Rule    Omega = |A| ratio (1 - p) |lp + H|; linear: w = high - (Omega - min)(high - low) / (max - min), the middle
            where all are equal; exponential: w = exp(-k Omega), k = -ln(low) / max(max Omega, 0.02)
    Source  STEER, arXiv:2510.10150, grade A-code (zz-haooo/STEER, core_algos.py); linear 0.8 to 1.2, exponential 0.8.
    Traps   minimum and maximum are the micro-batch's: one outlier moves all weights. `quantile` < 1 takes that quantile
            of Omega for the maximum (ours).
    """

    low: float = 0.8
    high: float = 1.2
    exponential: bool = False
    quantile: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.low <= self.high:
            raise ValueError(f"EntropyChangeDamping needs 0 < low <= high, got {self.low} and {self.high}")
        if not 0.0 < self.quantile <= 1.0:
            raise ValueError(f"EntropyChangeDamping.quantile is a fraction in (0, 1], got {self.quantile}")

    def __call__(self, stats: TokenStats) -> tuple[Tensor, Measures]:
        """float32 [seq, tok], 1 outside the mask."""
        change = entropy_change(stats)
        chosen = change[stats.mask]
        if not chosen.numel():
            weight = torch.ones_like(change)
            return weight, {"weights/entropy_change": mean_of(weight, stats.mask)}
        smallest, largest = chosen.min(), chosen.quantile(self.quantile)
        if self.exponential:
            weight = (math.log(self.low) / largest.clamp_min(SMALLEST_CHANGE) * change).exp().clamp_min(self.low)
        elif largest > smallest:
            part = ((change - smallest) / (largest - smallest)).clamp(0.0, 1.0)
            weight = self.high - part * (self.high - self.low)
        else:
            weight = torch.full_like(change, (self.low + self.high) / 2)
        return weight.masked_fill(~stats.mask, 1.0), {"weights/entropy_change": mean_of(weight, stats.mask)}


@dataclass(frozen=True, kw_only=True)
class SignLean:
    """Good tokens count more and bad ones less, or the other way round.

    Rule    w = max(0, 1 + lean) where A > 0, max(0, 1 - lean) where A < 0, 1 where A = 0
    Source  EntroPIC's action, grade A-code (lblaoke/entrocraft, "entropic"); a controller sets `lean`.
    """

    lean: float = 0.0

    def __call__(self, stats: TokenStats) -> tuple[Tensor, Measures]:
        """float32 [seq, tok]."""
        return (1.0 + self.lean * stats.advantage.sign()).clamp_min(0.0), {}


@dataclass(frozen=True, kw_only=True)
class LowToHigh:
    """First tokens whose prediction looks at little count more, towards the end those that look widely.

    Rule    r = the rank of a = observations.AttentionEntropy within the response, from 0 for the lowest to 1, the mean
            rank where several are equal; w = 1 + strength (1 - 2 progress)(1 - 2 r), whose mean over a response is 1
    Source  arXiv:2605.07660: a A'-third, w B-recon with strength 0.5; "low to high, continuous" is all that is known.
    Units   progress: from 0 to 1 over training, set by entropy_target.LinearKnobs.  strength: in [0, 1), 0 is off.
    Traps   strength < 1 leaves every token a weight: training widely looking tokens alone collapsed in 5 of 8 of the
            authors' seeds. The entropy of the next token is no substitute: the two hardly correlate.
    """

    strength: float = 0.5
    progress: float = 0.0
    attention: AttentionEntropy = field(default_factory=AttentionEntropy)

    def __post_init__(self) -> None:
        if not (0.0 <= self.strength < 1.0 and 0.0 <= self.progress <= 1.0):
            raise ValueError(
                f"LowToHigh needs strength in [0, 1) and progress in [0, 1], got {self.strength} and {self.progress}"
            )

    @property
    def needs(self) -> frozenset[AttentionEntropy]:
        return frozenset({self.attention})

    def __call__(self, stats: TokenStats) -> tuple[Tensor, Measures]:
        """[seq, tok], 1 outside the mask."""
        attention = stats.reads[self.attention].detach()
        known = attention.masked_fill(~stats.mask, torch.inf)
        ordered = known.sort(dim=1).values
        below, through = (torch.searchsorted(ordered, known, right=right) for right in (False, True))
        last = stats.mask.sum(1, keepdim=True) - 1
        rank = torch.where(last > 0, (below + through - 1) / (2 * last.clamp_min(1)), 0.5)
        weight = 1.0 + self.strength * (1.0 - 2.0 * self.progress) * (1.0 - 2.0 * rank)
        return weight.masked_fill(~stats.mask, 1.0).to(attention.dtype), {
            "attention/entropy": mean_of(attention, stats.mask)
        }
