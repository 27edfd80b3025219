"""One temperature for every token."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """One temperature for every token; 0 is greedy decoding.

    Rule    T = temperature
    Units   temperature: dimensionless divisor of the logits, >= 0.
    Traps   greedy rollouts are for evaluation: the learner refuses a temperature of 0.
    """

    name: ClassVar[str] = "fixed"
    needs: ClassVar[frozenset[str]] = frozenset()
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0.0):
            raise ValueError(f"Fixed.temperature is a finite number >= 0, got {self.temperature}")

    def __call__(self, entropies: Tensor) -> Tensor:
        return torch.full_like(entropies, self.temperature)
