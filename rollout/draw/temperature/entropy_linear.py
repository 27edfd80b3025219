"""Hotter where the policy is unsure: temperature linear in entropy."""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class EntropyLinear:
    """Temperature rises linearly with entropy, from `low` where the policy is sure to `high` where it is not.

    Rule    T = low + (high - low) * clip((H - entropy_low) / (entropy_high - entropy_low), 0, 1)
    Source  ours.
    Units   low, high: divisors of the logits, > 0.  entropy_low, entropy_high: nats at T = 1.
    Traps   high < low is allowed (it cools the forks); H is of the raw logits, before this temperature.
    """

    name: ClassVar[str] = "entropy_linear"
    needs: ClassVar[frozenset[str]] = frozenset({"entropy"})
    low: float = 0.8
    high: float = 1.2
    entropy_low: float = 0.0
    entropy_high: float = 2.0

    def __post_init__(self) -> None:
        for field in ("low", "high"):
            value = getattr(self, field)
            if not (math.isfinite(value) and value > 0.0):
                raise ValueError(f"EntropyLinear.{field} is a finite number > 0, got {value}")
        if not (
            math.isfinite(self.entropy_low)
            and math.isfinite(self.entropy_high)
            and self.entropy_low < self.entropy_high
        ):
            raise ValueError(
                f"EntropyLinear.entropy_low must lie below entropy_high, got {self.entropy_low} and {self.entropy_high}"
            )

    def __call__(self, entropies: Tensor) -> Tensor:
        fraction = (entropies - self.entropy_low) / (self.entropy_high - self.entropy_low)
        return self.low + (self.high - self.low) * fraction.clamp(0.0, 1.0)
