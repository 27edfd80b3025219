"""A closed loop around the sampler: the temperature moves until the draws are as random as wanted."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

from rollout.draw.control.controller import State
from rollout.draw.control.stats import EntropyStats
from rollout.draw.temperature import Fixed

_FLOOR = 1e-3  # nats: below this a measured entropy is noise, and its logarithm would be the whole error


@dataclass(kw_only=True)
class EntropyServo:
    """Integral control of ln T, so that the entropy of the distributions drawn from settles on the target.

    Rule    ln T <- clip(ln T + gain * clip(ln(target / drawn), -1, 1), ln low, ln high)
    Source  ours. With s = d ln H / d ln T at the target (0 for a uniform distribution, larger the sharper it is) and
            one step of delay the loop converges without overshoot for gain * s <= 1 and is stable for gain * s < 2.
    Units   target: nats, mean over response tokens of the entropy after temperature and truncation.  start, low, high:
            divisors of the logits, > 0.  gain: ln T per ln H, > 0.
    Traps   the integrator is ln T itself, clipped to its bounds: it cannot wind up. Every step of staleness is a step
            of delay: with staleness S take gain of about 1 / (s (2 S + 1)) or less.
    """

    quantile: ClassVar[float | None] = None
    target: float
    start: float = 1.0
    gain: float = 0.2
    low: float = 0.5
    high: float = 1.5
    _log_temperature: float = field(init=False, compare=False)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.target) and self.target > 0.0):
            raise ValueError(f"EntropyServo.target is nats > 0, got {self.target}")
        if not (math.isfinite(self.gain) and self.gain > 0.0):
            raise ValueError(f"EntropyServo.gain is a finite number > 0, got {self.gain}")
        if not 0.0 < self.low <= self.start <= self.high < math.inf:
            raise ValueError(
                f"EntropyServo wants 0 < low <= start <= high, got {self.low}, {self.start} and {self.high}"
            )
        self._log_temperature = math.log(self.start)

    def policy(self) -> Fixed:
        return Fixed(temperature=math.exp(self._log_temperature))

    def observe(self, stats: EntropyStats) -> None:
        error = math.log(self.target / max(stats.drawn, _FLOOR))
        moved = self._log_temperature + self.gain * max(-1.0, min(1.0, error))
        self._log_temperature = max(math.log(self.low), min(math.log(self.high), moved))

    def state(self) -> dict[str, float]:
        return {"log_temperature": self._log_temperature}

    def load(self, state: State) -> None:
        self._log_temperature = float(state["log_temperature"])
