"""What the run loop asks of a temperature controller."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from rollout.draw.control.stats import EntropyStats
from rollout.draw.temperature import TemperaturePolicy

State = Mapping[str, float]


@runtime_checkable
class TemperatureController(Protocol):
    """Once per training step `observe`; for each new request `policy`. One controller belongs to one run.

    Example of a run of two steps: policy() -> requests of step 1 -> observe(their stats) -> policy() -> step 2.
    After a crash: load(state) of the checkpoint, and policy() answers as if nothing had happened.
    """

    quantile: float | None  # the pivot it wants in EntropyStats, None if it reads none

    def policy(self) -> TemperaturePolicy: ...

    def observe(self, stats: EntropyStats) -> None: ...

    def state(self) -> State: ...

    def load(self, state: State) -> None: ...
