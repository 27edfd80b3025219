"""Selectors: which response tokens carry the policy gradient. Several selectors of one objective must all agree."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from learner.objective.stats import TokenStats


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
