"""Regularisers: per-token terms added to the policy loss, each with its own coefficient."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from learner.measures import Measures
from learner.objective.stats import TokenStats


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
