"""Selectors: which response tokens carry the policy gradient. Several selectors of one objective must all agree."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from learner.objective.reads import Read, SurplusGap
from learner.objective.scores import covariance, masked_mean, surplus
from learner.objective.stats import TokenStats

FLAT = 1e-12  # a deviation below it is rounding: nothing stands out


@dataclass(frozen=True, kw_only=True)
class EntropyQuantile:
    """Keep the `keep` fraction of response tokens at which the model was least sure.

    Rule    token t stays iff H[t] >= the (1 - keep) quantile of H over the response tokens in `scope`.
    Source  Wang et al. 2025, arXiv:2506.01939 ("batch", 0.2), grade A'-third; "response" is EARL, B-recon.
    Units   H: nats at T = 1, detached.  keep: fraction of tokens, 0 < keep <= 1; keep = 1 keeps them all.
    Traps   "batch" is this micro-batch, not all ranks; ties at the threshold all stay (H = 0 keeps everything);
            torch refuses a quantile over more than 2**24 tokens.
    """

    keep: float = 0.2
    scope: Literal["response", "batch"] = "batch"

    def __post_init__(self) -> None:
        if not 0.0 < self.keep <= 1.0:
            raise ValueError(f"EntropyQuantile.keep is a fraction of tokens in (0, 1], got {self.keep}")
        if self.scope not in ("response", "batch"):
            raise ValueError(f"EntropyQuantile.scope is 'response' or 'batch', got {self.scope!r}")

    def __call__(self, stats: TokenStats) -> Tensor:
        """bool [seq, tok]."""
        entropy = stats.entropy.detach().masked_fill(~stats.mask, torch.nan)
        if self.scope == "response":
            threshold = entropy.nanquantile(1.0 - self.keep, dim=1, keepdim=True)
        else:
            threshold = entropy.nanquantile(1.0 - self.keep)
        return stats.mask & (entropy >= threshold)  # NaN compares false: an empty response keeps nothing


@dataclass(frozen=True, kw_only=True)
class CovarianceBand:
    """Leave out a few random tokens among those whose step would lower the entropy most.

    Rule    candidates: low < (A - mean A)(lp - mean lp) < high and not clipped by the surrogate anyway; of them
            max(1, floor(fraction * trained tokens)) are drawn at random and dropped
    Source  Clip-Cov, arXiv:2505.22617, grade A-code (PRIME-RL/Entropy-Mechanism-of-RL, core_algos.py).
    Units   low, high: of the covariance.  eps_lo, eps_hi: the surrogate's, to know what it clips.
    Traps   dropped tokens stay in the denominator, as released. Random numbers are torch's own, one draw a micro-batch.
    """

    fraction: float = 2e-4
    low: float = 1.0
    high: float = 5.0
    eps_lo: float = 0.2
    eps_hi: float = 0.2

    def __post_init__(self) -> None:
        if not 0.0 < self.fraction <= 1.0:
            raise ValueError(f"CovarianceBand.fraction is of the tokens, in (0, 1], got {self.fraction}")
        if not self.low < self.high:
            raise ValueError(f"CovarianceBand needs low < high, got {self.low} and {self.high}")

    def __call__(self, stats: TokenStats) -> Tensor:
        """bool [seq, tok]."""
        score = covariance(stats)
        ratio = (stats.lp.detach() - stats.lp_old).exp()
        clipped = ((stats.advantage > 0) & (ratio > 1.0 + self.eps_hi)) | (
            (stats.advantage < 0) & (ratio < 1.0 - self.eps_lo)
        )
        candidates = (stats.mask & ~clipped & (score > self.low) & (score < self.high)).flatten().nonzero()[:, 0]
        count = max(1, int(self.fraction * int(stats.mask.sum())))
        dropped = candidates[torch.randperm(len(candidates), device=candidates.device)[:count]]
        return stats.mask.flatten().index_fill(0, dropped, False).view(stats.mask.shape)


@dataclass(frozen=True, kw_only=True)
class NegativeOutliers:
    """Leave out punished tokens that are so unlikely that punishing them costs much entropy.

    Rule    S = p (H + lp), z = S - mean(S); drop iff A < 0 and z < -deviations * std(S), the population deviation
    Source  Clip_B, arXiv:2602.03392, grade A-code (Trinity-RFT, clipb_advantage.py); deviations (mu) 2.5.
    Traps   the release takes p from the sampler and H from the trainer: `released_logprob` does the same. It also takes
            dropped tokens out of the denominator; here they stay in it.
    """

    deviations: float = 2.5
    released_logprob: bool = False

    def __post_init__(self) -> None:
        if not self.deviations > 0.0:
            raise ValueError(f"NegativeOutliers.deviations is positive, got {self.deviations}")

    def __call__(self, stats: TokenStats) -> Tensor:
        """bool [seq, tok]."""
        score = surplus(stats.lp_sampler if self.released_logprob else stats.lp_old, stats.entropy)
        centred = score - masked_mean(score, stats.mask)
        deviation = masked_mean(centred.square(), stats.mask).sqrt()
        if deviation < FLAT:
            return stats.mask
        return stats.mask & ~((stats.advantage < 0) & (centred < -self.deviations * deviation))


@dataclass(frozen=True, kw_only=True)
class NegativesBelowPolicy:
    """Leave out the few punished tokens that lie furthest below what the policy itself expects of a token.

    Rule    D = N - S (reads.SurplusGap); candidates: A < 0 and D > deviations * std(D), the population deviation about
            the mean of D; drop them, or the max(1, floor(fraction * tokens)) largest D where there are more
    Source  Clip_V, arXiv:2602.03392, grade A-code (Trinity-RFT, clipv_advantage.py); deviations (mu) 8.5, fraction
            1e-4.
    Traps   deviation and cap are the micro-batch's (released: the batch's), so many small micro-batches drop more: each
            may drop one token. D is compared as it is, not after subtracting its mean. Dropped tokens stay in the
            denominator; the release takes them out of it, and those with A = 0, which pull at nothing, too.
    """

    needs: ClassVar[frozenset[Read]] = frozenset({SurplusGap()})
    deviations: float = 8.5
    fraction: float = 1e-4

    def __post_init__(self) -> None:
        if not self.deviations > 0.0:
            raise ValueError(f"NegativesBelowPolicy.deviations is positive, got {self.deviations}")
        if not 0.0 < self.fraction <= 1.0:
            raise ValueError(f"NegativesBelowPolicy.fraction is of the tokens, in (0, 1], got {self.fraction}")

    def __call__(self, stats: TokenStats) -> Tensor:
        """bool [seq, tok]."""
        gap = stats.reads[SurplusGap()].double()
        deviation = masked_mean((gap - masked_mean(gap, stats.mask)).square(), stats.mask).sqrt()
        if deviation < FLAT:
            return stats.mask
        candidates = stats.mask & (stats.advantage < 0) & (gap > self.deviations * deviation)
        most = max(1, int(self.fraction * int(stats.mask.sum())))
        ranked = gap.masked_fill(~candidates, -torch.inf).flatten()
        largest = ranked.topk(min(most, int(candidates.sum()))).indices
        return stats.mask.flatten().index_fill(0, largest, False).view(stats.mask.shape)


@dataclass(frozen=True, kw_only=True)
class SurestCredit:
    """Keep the fraction of tokens at which advantage and uncertainty are largest.

    Rule    keep the ceil(keep * tokens) largest |A| * H, over the response or the micro-batch
    Source  D3S's token stage, arXiv:2509.22115, grade A'-third; the formula ranks over all kept tokens ("batch"), the
            prose per response.
    Units   keep: fraction in (0, 1]; a controller may schedule it.
    """

    keep: float = 0.2
    scope: Literal["response", "batch"] = "batch"

    def __post_init__(self) -> None:
        if not 0.0 < self.keep <= 1.0:
            raise ValueError(f"SurestCredit.keep is a fraction of tokens in (0, 1], got {self.keep}")
        if self.scope not in ("response", "batch"):
            raise ValueError(f"SurestCredit.scope is 'response' or 'batch', got {self.scope!r}")

    def __call__(self, stats: TokenStats) -> Tensor:
        """bool [seq, tok]."""
        score = (stats.advantage.abs() * stats.entropy.detach()).masked_fill(~stats.mask, -torch.inf)
        shape = score.shape
        if self.scope == "batch":
            score = score.view(1, -1)
        counts = (self.keep * (score > -torch.inf).sum(1, keepdim=True)).ceil()
        rank = score.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        return stats.mask & (rank < counts).view(shape)
