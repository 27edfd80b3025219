"""Regularisers: per-token terms added to the policy loss, each with its own coefficient."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from learner.measures import Measures, mean_of
from learner.objective.aggregate import SequenceMean
from learner.objective.reads import Read, TopPEntropy
from learner.objective.scores import covariance
from learner.objective.stats import TokenStats
from learner.objective.weights import MAX_LOG_RATIO

SMALLEST_WEIGHT = 1e-30  # a micro-batch without trained tokens has a sum of weights of 0


@dataclass(frozen=True, kw_only=True)
class EntropyBonus:
    """Reward the policy for staying unsure.

    Rule    X = -coefficient * H, on every trained token, reduced by the objective's aggregator.
    Source  A3C, arXiv:1602.01783, K.
    Units   H: nats at T = 1, with gradient.  coefficient: loss per nat; negative sharpens.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"entropy_grad"})
    coefficient: float = 0.001

    def __call__(self, stats: TokenStats) -> tuple[Tensor, Measures]:
        """float32 [seq, tok]."""
        return -self.coefficient * stats.entropy, {}


@dataclass(frozen=True, kw_only=True)
class CovariancePenalty:
    """Hold back the tokens whose step would lower the entropy most.

    Rule    X = coefficient * |lp - lp_old| on the `fraction` of tokens with the largest covariance, at least one
    Source  KL-Cov, arXiv:2505.22617, grade A-code (PRIME-RL/Entropy-Mechanism-of-RL); 2e-3 (7B), 2e-4 (32B).
    Traps   not a KL but an absolute log-ratio. At lp = lp_old its gradient is 0: it bites only with several minibatches
            per batch. The paper's surrogate does not clip.
    """

    fraction: float = 2e-3
    coefficient: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.fraction <= 1.0:
            raise ValueError(f"CovariancePenalty.fraction is of the tokens, in (0, 1], got {self.fraction}")

    def __call__(self, stats: TokenStats) -> tuple[Tensor, Measures]:
        """float32 [seq, tok]."""
        tokens = int(stats.mask.sum())
        count = min(tokens, max(1, int(self.fraction * tokens)))
        largest = covariance(stats).masked_fill(~stats.mask, -torch.inf).flatten().topk(count).indices
        chosen = torch.zeros_like(stats.mask).flatten().index_fill(0, largest, True).view(stats.mask.shape)
        return self.coefficient * (stats.lp - stats.lp_old).abs() * chosen, {}


@dataclass(frozen=True, kw_only=True)
class CovarianceEntropy:
    """Keep up the entropy of the tokens whose step would lower it most.

    Rule    w = min(softmax(covariance / temperature), cap / N), N the tokens; X = -coefficient * sum(w H) / sum(w), or
            literally -coefficient * N * sum(w H), H with gradient
    Source  TEA-RL (Light-IF), arXiv:2508.03178, grade A'-third; the authors' released code has no such term.
    Units   coefficient: loss per nat.  temperature: of the covariance.  cap: multiples of the uniform weight.
    Traps   the softmax is over the micro-batch; the literal form grows with its number of tokens.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"entropy_grad"})
    coefficient: float = 0.05
    temperature: float = 1.0
    cap: float = 100.0
    literal: bool = False

    def __post_init__(self) -> None:
        if not (self.temperature > 0.0 and self.cap > 0.0):
            raise ValueError(
                f"CovarianceEntropy.temperature and cap are positive, got {self.temperature} and {self.cap}"
            )

    def __call__(self, stats: TokenStats) -> tuple[Tensor, Measures]:
        """[seq, tok]: an aggregator that averages over tokens makes of it the weighted mean."""
        tokens = stats.mask.sum().clamp_min(1)
        score = (covariance(stats) / self.temperature).masked_fill(~stats.mask, -torch.inf)
        weight = score.flatten().softmax(0).view(score.shape).nan_to_num(0.0).clamp_max(self.cap / tokens)
        weight = weight * tokens if self.literal else weight / weight.sum().clamp_min(SMALLEST_WEIGHT)
        return -self.coefficient * tokens * weight * stats.entropy, {}


@dataclass(frozen=True, kw_only=True)
class PeakEntropyAnchor:
    """Hold the entropy at the response's most uncertain tokens where it was when the run began.

    Rule    peaks: the tokens of a response whose top-p entropy (reads.TopPEntropy) exceeds its `quantile` over them;
            h = mean over responses of the mean over their peaks; X = coefficient * (h - anchor)^2 of the micro-batch,
            which counts by its responses; 0 while `anchor` is None
    Source  SIREN, arXiv:2509.25133, grade A-code (Linn3a/siren, dp_actor.py): p 0.8, quantile 0.8, coefficient 0.005.
    Units   nats at T = 1.  anchor: set by entropy_target.FirstMeasurement.
    Traps   a response without a peak, as one of a single token or of equal entropies, is in no mean (ours).
            The quantile interpolates linearly; "exceeds" is strict.
    """

    coefficient: float = 0.005
    quantile: float = 0.8
    entropy: TopPEntropy = field(default_factory=TopPEntropy)
    anchor: float | None = None
    aggregate: Any = field(default_factory=SequenceMean)

    def __post_init__(self) -> None:
        if not 0.0 <= self.quantile < 1.0:
            raise ValueError(f"PeakEntropyAnchor.quantile is a fraction of tokens in [0, 1), got {self.quantile}")

    @property
    def needs(self) -> frozenset[Read]:
        return frozenset({self.entropy})

    def __call__(self, stats: TokenStats) -> tuple[Tensor, Measures]:
        """[seq, tok]: the micro-batch's X at every token."""
        entropy = stats.reads[self.entropy]
        threshold = entropy.detach().masked_fill(~stats.mask, torch.nan).nanquantile(self.quantile, dim=1, keepdim=True)
        peaks = stats.mask & (entropy.detach() > threshold)
        has_peak = peaks.any(1)
        mean = (entropy * peaks).sum(1) / peaks.sum(1).clamp_min(1)  # [seq]
        measures = {"entropy/peaks": mean_of(mean, has_peak)}
        if self.anchor is None:
            return torch.zeros_like(stats.lp), measures
        h = mean.sum() / has_peak.sum().clamp_min(1)
        term = self.coefficient * (h - self.anchor).square() * has_peak.any()
        return term.expand(stats.mask.shape), measures


@dataclass(frozen=True, kw_only=True)
class ReferenceKl:
    """Stay near the model the run started from.

    Rule    d = lp_ref - lp; k1: -d; k2: d^2 / 2; k3: exp(d) - d - 1; X = coefficient * k
    Source  GRPO, arXiv:2402.03300 (k3), and J. Schulman's estimators, K; coefficient 0.001, A-code (verl).
    Units   nats per token at the recorded temperature, inside the kept tokens; d is cut at +-20.
    Traps   as a loss, k1 has gradient 0 on average and k2 the one of the KL; k3's is biased off-policy.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"lp_ref"})
    estimator: Literal["k1", "k2", "k3"] = "k3"
    coefficient: float = 0.001

    def __post_init__(self) -> None:
        if self.estimator not in ("k1", "k2", "k3"):
            raise ValueError(f"ReferenceKl.estimator is 'k1', 'k2' or 'k3', got {self.estimator!r}")

    def __call__(self, stats: TokenStats) -> tuple[Tensor, Measures]:
        """float32 [seq, tok]."""
        d = (stats.lp_ref - stats.lp).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        kl = {"k1": lambda: -d, "k2": lambda: d.square() / 2, "k3": lambda: torch.expm1(d) - d}[self.estimator]()
        return self.coefficient * kl, {"train/reference_kl": mean_of(kl, stats.mask)}
