"""A temperature that moves from one value to another over the training steps."""

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from rollout.draw.control.controller import State
from rollout.draw.control.stats import EntropyStats
from rollout.draw.temperature import Fixed


@dataclass(kw_only=True)
class Scheduled:
    """From `start` to `end` over `steps` training steps, then `end`.

    Rule    f = min(seen / steps, 1), cosine: f <- (1 - cos(pi f)) / 2; T = start + (end - start) f
    Source  ours.
    Units   start, end: divisors of the logits, > 0.  steps: training steps observed, >= 1.
    Traps   it counts steps trained: with staleness, a request is drawn at the temperature of the steps seen when it
            was admitted.
    """

    quantile: ClassVar[float | None] = None
    start: float
    end: float
    steps: int
    shape: Literal["linear", "cosine"] = "linear"
    _seen: int = field(default=0, init=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0.0):
                raise ValueError(f"Scheduled.{name} is a finite number > 0, got {value}")
        if self.steps < 1:
            raise ValueError(f"Scheduled.steps is a number of training steps, at least 1, got {self.steps}")
        if self.shape not in ("linear", "cosine"):
            raise ValueError(f"Scheduled.shape is linear or cosine, got {self.shape!r}")

    def policy(self) -> Fixed:
        fraction = min(self._seen / self.steps, 1.0)
        if self.shape == "cosine":
            fraction = (1.0 - math.cos(math.pi * fraction)) / 2.0
        return Fixed(temperature=self.start + (self.end - self.start) * fraction)

    def observe(self, stats: EntropyStats) -> None:
        self._seen += 1

    def state(self) -> dict[str, float]:
        return {"seen": self._seen}

    def load(self, state: State) -> None:
        self._seen = int(state["seen"])
