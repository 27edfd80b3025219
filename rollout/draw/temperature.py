"""Temperature policies: from the entropy of a token's distribution to the temperature it is drawn at.

A policy is a small frozen dataclass, called with the entropies of a batch of rows. It travels inside the request as
`to_wire(policy)`, plain values that any process can read back with `from_wire`.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor


class TemperaturePolicy(Protocol):
    """entropies [rows] in nats at T = 1 -> temperatures [rows]."""

    name: ClassVar[str]

    def __call__(self, entropies: Tensor) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """One temperature for every token; 0 is greedy decoding.

    Units   temperature: dimensionless divisor of the logits, >= 0.
    Traps   greedy rollouts are for evaluation: the learner refuses a temperature of 0.
    """

    name: ClassVar[str] = "fixed"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0.0):
            raise ValueError(f"Fixed.temperature is a finite number >= 0, got {self.temperature}")

    def __call__(self, entropies: Tensor) -> Tensor:
        return torch.full_like(entropies, self.temperature)


@dataclass(frozen=True, kw_only=True)
class EntropyLinear:
    """Temperature rises linearly with entropy, from `low` where the policy is sure to `high` where it is not.

    Rule    T = low + (high - low) * clip((H - entropy_low) / (entropy_high - entropy_low), 0, 1)
    Source  ours.
    Units   low, high: divisors of the logits, > 0.  entropy_low, entropy_high: nats at T = 1.
    Traps   high < low is allowed (it cools the forks); H is of the raw logits, before this temperature.
    """

    name: ClassVar[str] = "entropy_linear"
    low: float = 0.8
    high: float = 1.2
    entropy_low: float = 0.0
    entropy_high: float = 2.0

    def __post_init__(self) -> None:
        for field in ("low", "high"):
            value = getattr(self, field)
            if not (math.isfinite(value) and value > 0.0):
                raise ValueError(f"EntropyLinear.{field} is a finite number > 0, got {value}")
        if not self.entropy_low < self.entropy_high:
            raise ValueError(
                f"EntropyLinear.entropy_low must lie below entropy_high, got {self.entropy_low} and {self.entropy_high}"
            )

    def __call__(self, entropies: Tensor) -> Tensor:
        fraction = (entropies - self.entropy_low) / (self.entropy_high - self.entropy_low)
        return self.low + (self.high - self.low) * fraction.clamp(0.0, 1.0)


POLICIES: dict[str, type] = {policy.name: policy for policy in (Fixed, EntropyLinear)}


def to_wire(policy: TemperaturePolicy) -> dict[str, Any]:
    """The policy as plain values, e.g. {"name": "fixed", "temperature": 1.0}."""
    return {"name": policy.name, **dataclasses.asdict(policy)}


def from_wire(values: dict[str, Any]) -> TemperaturePolicy:
    """The inverse of `to_wire`. Raises ValueError for a name no policy has."""
    parameters = dict(values)
    name = parameters.pop("name", None)
    if name not in POLICIES:
        raise ValueError(f"unknown temperature policy {name!r}; known are {', '.join(sorted(POLICIES))}")
    return POLICIES[name](**parameters)
