"""A policy that no step changes."""

from dataclasses import dataclass
from typing import ClassVar

from rollout.draw.control.stats import EntropyStats
from rollout.draw.temperature import TemperaturePolicy


@dataclass(kw_only=True)
class Constant:
    """The policy it was given, at every step. What a plain policy in a configuration becomes."""

    quantile: ClassVar[float | None] = None
    given: TemperaturePolicy

    def policy(self) -> TemperaturePolicy:
        return self.given

    def observe(self, stats: EntropyStats) -> None:
        pass

    def state(self) -> dict[str, float]:
        return {}

    def load(self, state: dict[str, float]) -> None:
        pass
