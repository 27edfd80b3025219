"""Marks: what whole groups, or the whole batch, say of a sample, for pieces that see the tokens of a micro-batch alone.

Outcomes (whole batch, equal on every rank) --mark--> float64 [seq] --> TokenStats.marks[name]
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from learner.objective.stats import Outcomes


@dataclass(frozen=True, kw_only=True)
class Right:
    """1 for samples with a reward above `above`, else 0. `verified`: the verifier's own reward, before shaping.

    Source  DCPO, grade A-code (597358816/AEPO, arXiv:2510.08141), above 0.05, of the reward as it is.
    """

    above: float = 0.05
    verified: bool = False

    def __call__(self, outcomes: Outcomes) -> Tensor:
        """float64 [seq]."""
        return ((outcomes.unshaped if self.verified else outcomes.rewards) > self.above).double()


@dataclass(frozen=True, kw_only=True)
class RightFraction:
    """The fraction of the batch that is Right, the same number for every sample."""

    above: float = 0.05

    def __call__(self, outcomes: Outcomes) -> Tensor:
        """float64 [seq]."""
        right = Right(above=self.above)(outcomes)
        return torch.full_like(right, right.mean())
