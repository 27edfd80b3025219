"""HAPO's temperature: each batch's log-entropies normalise those of the next one."""

import dataclasses
from dataclasses import dataclass, field

from rollout.draw.control.controller import State
from rollout.draw.control.stats import EntropyStats
from rollout.draw.temperature import Fixed, LogPivot, PivotStatistics


@dataclass(kw_only=True)
class LogPivotFromBatch:
    """`LogPivot` with the statistics of the last trained batch; before the first, `base` for every token.

    Rule    see LogPivot and PivotStatistics.
    Source  HAPO, arXiv:2509.16591, grade A-code: quantile 0.8, swing 0.05, base 1, off at the first step.
    Units   quantile: of the batch's log-entropies, in [0, 1].  base, swing, released_sign: see LogPivot.
    Traps   lp_old must be evaluated at each token's recorded temperature, not at `base` as in the release.
    """

    quantile: float = 0.8
    base: float = 1.0
    swing: float = 0.05
    released_sign: bool = False
    _last: PivotStatistics | None = field(default=None, init=False, compare=False)

    def __post_init__(self) -> None:
        if not 0.0 <= self.quantile <= 1.0:
            raise ValueError(f"LogPivotFromBatch.quantile lies in [0, 1], got {self.quantile}")
        self._with(PivotStatistics(pivot=0.0, rms=1.0, scale_positive=1.0, scale_negative=1.0))

    def policy(self) -> Fixed | LogPivot:
        return Fixed(temperature=self.base) if self._last is None else self._with(self._last)

    def _with(self, statistics: PivotStatistics) -> LogPivot:
        return LogPivot(
            **dataclasses.asdict(statistics), base=self.base, swing=self.swing, released_sign=self.released_sign
        )

    def observe(self, stats: EntropyStats) -> None:
        if stats.pivot is None:
            raise ValueError(f"LogPivotFromBatch wants the pivot: EntropyStats.of(..., quantile={self.quantile})")
        self._last = stats.pivot

    def state(self) -> dict[str, float]:
        return {} if self._last is None else dataclasses.asdict(self._last)

    def load(self, state: State) -> None:
        self._last = PivotStatistics(**state) if state else None
