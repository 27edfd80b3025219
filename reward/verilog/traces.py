"""The sampled outputs of a design, and how far they agree with those of the reference."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from reward.messages import Status

UNKNOWN = "x"
ENTRY_BYTES = 2048  # of an outcome in memory beside its samples: its key holds the text of a design


@dataclass(frozen=True, kw_only=True)
class Trace:
    """One row of output bits (`0 1 x z`) per stimulus, kept as one text: rows of `width` characters, end to end."""

    text: str
    width: int

    @staticmethod
    def of(rows: Sequence[str]) -> "Trace":
        return Trace(text="".join(rows), width=len(rows[0]))

    @cached_property
    def says_nothing(self) -> bool:
        """True where no bit is ever 0 or 1, so that a design need not do anything to agree."""
        return not ("0" in self.text or "1" in self.text)

    @cached_property
    def toggled(self) -> float:
        """The fraction of output bits that are 0 somewhere and 1 somewhere: what the stimuli have exercised."""
        columns = (self.text[start :: self.width] for start in range(self.width))
        return sum("0" in column and "1" in column for column in columns) / self.width

    @cached_property
    def known_bits(self) -> frozenset[int]:
        """Positions in a row that are 0 or 1 somewhere."""
        columns = (self.text[start :: self.width] for start in range(self.width))
        return frozenset(position for position, column in enumerate(columns) if column.strip("xz"))

    def __len__(self) -> int:
        return len(self.text) // self.width

    @property
    def bits(self) -> np.ndarray:
        """The characters: [samples, width] of uint8."""
        return np.frombuffer(self.text.encode(), np.uint8).reshape(-1, self.width)

    @property
    def lines(self) -> bytes:
        """One row a line."""
        return np.pad(self.bits, ((0, 0), (0, 1)), constant_values=ord("\n")).tobytes()

    @property
    def rows(self) -> list[str]:
        return [self.text[start : start + self.width] for start in range(0, len(self.text), self.width)]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoTrace:
    """Why a design left no samples.

    `compiled` and `ports` tell how far it came; `certain` that another try would end the same.
    """

    status: Status
    detail: str
    compiled: bool
    ports: bool
    certain: bool = True


Outcome = Trace | NoTrace


def agreeing(sampled: Trace, expected: Trace) -> np.ndarray:
    """Of each sample that both have, whether all bits agree: [samples] of bool.

    An unknown bit of the reference agrees with everything.
    """
    rows = min(len(sampled), len(expected))
    got, want = sampled.bits[:rows], expected.bits[:rows]
    return ((got == want) | (want == ord(UNKNOWN))).all(axis=1)


def agreement(sampled: Trace, expected: Trace) -> float:
    """The fraction of the expected samples in which all bits agree."""
    return int(agreeing(sampled, expected).sum()) / len(expected)


def row_agrees(sampled: str, expected: str) -> bool:
    return all(want in (UNKNOWN, got) for got, want in zip(sampled, expected, strict=True))


def weight(outcome: Outcome) -> int:
    """Bytes that remembering an outcome takes, about."""
    return ENTRY_BYTES + (len(outcome.text) if isinstance(outcome, Trace) else 0)
