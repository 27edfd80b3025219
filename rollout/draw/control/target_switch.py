"""AEPO's switch: hot while the policy's entropy is below its target, cool while it is above."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

from rollout.draw.control.controller import State
from rollout.draw.control.stats import EntropyStats
from rollout.draw.temperature import Fixed


@dataclass(kw_only=True)
class TargetEntropySwitch:
    """One of two temperatures, by the last step's mean entropy.

    Rule    T = high if mean H < target, else low; before the first step T = start.
    Source  AEPO, arXiv:2510.08141, grade A-code (597358816/AEPO ray_trainer.py): high 1.2, low 0.8, target 0.5 (its
            best run: 0.75). `start` is ours.
    Units   target: nats at T = 1, mean over response tokens.  high, low, start: divisors of the logits, > 0.
    Traps   AEPO draws a quarter of the prompts at this temperature as a second rollout and trains the correct ones of
            them; as the temperature of the main rollout it is the plain version.
    """

    quantile: ClassVar[float | None] = None
    target: float = 0.5
    high: float = 1.2
    low: float = 0.8
    start: float = 1.0
    _mean: float | None = field(default=None, init=False, compare=False)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.target) and self.target > 0.0):
            raise ValueError(f"TargetEntropySwitch.target is nats > 0, got {self.target}")
        for name in ("high", "low", "start"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0.0):
                raise ValueError(f"TargetEntropySwitch.{name} is a finite number > 0, got {value}")
        if self.low > self.high:
            raise ValueError(f"TargetEntropySwitch.low must not exceed high, got {self.low} and {self.high}")

    def policy(self) -> Fixed:
        if self._mean is None:
            return Fixed(temperature=self.start)
        return Fixed(temperature=self.high if self._mean < self.target else self.low)

    def observe(self, stats: EntropyStats) -> None:
        self._mean = stats.mean

    def state(self) -> dict[str, float]:
        return {} if self._mean is None else {"mean": self._mean}

    def load(self, state: State) -> None:
        self._mean = state.get("mean")
