"""The sampled outputs of a design, and how far they agree with those of the reference."""

from collections.abc import Sequence
from dataclasses import dataclass

from reward.messages import Status

UNKNOWN = "x"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One row of output bits (`0 1 x z`) per stimulus."""

    rows: tuple[str, ...]

    @property
    def says_nothing(self) -> bool:
        """True where no bit is ever 0 or 1, so that a design need not do anything to agree."""
        return not any("0" in row or "1" in row for row in self.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoTrace:
    """Why a design left no samples. `compiled` tells how far it came; `certain` that another try would end the same."""

    status: Status
    detail: str
    compiled: bool
    certain: bool = True


def agreement(sampled: Sequence[str], expected: Sequence[str]) -> float:
    """The fraction of samples in which all bits agree. An unknown bit of the reference agrees with everything."""
    return sum(map(row_agrees, sampled, expected)) / len(expected)


def row_agrees(sampled: str, expected: str) -> bool:
    if sampled == expected:
        return True
    return UNKNOWN in expected and all(want in (UNKNOWN, got) for got, want in zip(sampled, expected, strict=True))
