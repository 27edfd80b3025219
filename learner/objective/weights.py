"""Token weights: detached factors >= 0 on the policy gradient of each token. Several weights multiply."""

from dataclasses import dataclass

from torch import Tensor

from learner.measures import Measures, mean_of
from learner.objective.stats import TokenStats

# exp of more than this says only "very large" and would overflow float32 at 88.
MAX_LOG_RATIO = 20.0


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
