"""What the sampler and the learner may ask of a temperature policy."""

from typing import ClassVar, Protocol

from torch import Tensor


class TemperaturePolicy(Protocol):
    """entropies [rows] in nats at T = 1 -> temperatures [rows]; frozen, hashable, made of plain values."""

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]]  # of "entropy", "hidden"; where "entropy" is absent the values are not read

    def __call__(self, entropies: Tensor) -> Tensor: ...
