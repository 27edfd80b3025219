"""What every kind of constraint is: a frozen dataclass whose fields are the reference's, called with an Answer."""

from dataclasses import dataclass
from typing import Protocol

from reward.instructions.answer import Answer


class Constraint(Protocol):
    """Raises ValueError, where it is built, for parameters that mean nothing."""

    def __call__(self, answer: Answer) -> bool:
        """Whether the answer, which is not empty, satisfies it. Time linear in the answer."""


@dataclass(frozen=True, kw_only=True)
class Count:
    """A number of something, bounded: `exactly`, or `at_least` and/or `at_most`. IFEval's "less than n" is n - 1."""

    at_least: int | None = None
    at_most: int | None = None
    exactly: int | None = None

    def __post_init__(self) -> None:
        bounds = [bound for bound in (self.at_least, self.at_most, self.exactly) if bound is not None]
        if not bounds or min(bounds) < 0 or (self.exactly is not None and len(bounds) > 1):
            raise ValueError("give exactly, or at_least and/or at_most, as numbers from 0")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"at_least {self.at_least} is above at_most {self.at_most}")

    def count(self, answer: Answer) -> int | None:
        """How many there are; None where the answer breaks the form in which they are counted."""
        raise NotImplementedError

    def __call__(self, answer: Answer) -> bool:
        count = self.count(answer)
        if count is None:
            return False
        if self.exactly is not None:
            return count == self.exactly
        return (self.at_least is None or count >= self.at_least) and (self.at_most is None or count <= self.at_most)


def needs_text(**values: str) -> None:
    """Raises ValueError for an empty parameter: every answer contains the empty text."""
    for name, value in values.items():
        if not value.strip():
            raise ValueError(f"{name} is a text that is not empty")
