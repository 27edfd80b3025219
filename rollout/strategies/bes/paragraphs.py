"""Solutions as rows of paragraphs: where one ends, and the four operators that make a new row of old ones.

    parents --operator--> row of their paragraphs --settle--> the same row, each token with what its record is worth now

Source of the operators: BES, arXiv:2605.28814, grade A-code (Embodied-Minds-Lab/BES bes_agent_loop.py); what becomes of
the record is ours, as the release returns text alone.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rollout.strategies.passage import Passage

BLANK_LINE = "\n\n"

Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Paragraph:
    """`ends`: the policy ended the response in it, so its last token is a stop token."""

    passage: Passage
    ends: bool = False


Row = tuple[Paragraph, ...]


def paragraph_length(ids: np.ndarray, decode: Decode) -> int | None:
    """Tokens up to and with the first blank line behind some text; None where there is no such line."""

    def over(length: int) -> bool:
        return BLANK_LINE in decode(ids[:length].tolist()).lstrip("\n")

    return bisect_left(range(1, len(ids) + 1), True, key=over) + 1 if over(len(ids)) else None


def shared(a: Row, b: Row) -> int:
    """How many leading paragraphs are the same tokens in both."""
    for place, (one, other) in enumerate(zip(a, b, strict=False)):
        if not np.array_equal(one.passage.ids, other.passage.ids):
            return place
    return min(len(a), len(b))


def combine(a: Row, b: Row, random: np.random.Generator) -> Row | None:
    """What both begin with, what a goes on with, and behind it what b goes on with."""
    start = shared(a, b)
    return None if start in (len(a), len(b)) else (*a, *b[start:])


def delete(a: Row, random: np.random.Generator) -> Row | None:
    """One paragraph less, neither the first nor the last."""
    if len(a) <= 2:
        return None
    gone = int(random.integers(1, len(a) - 1))
    return (*a[:gone], *a[gone + 1 :])


def translocate(a: Row, b: Row, random: np.random.Generator) -> Row | None:
    """One paragraph behind the shared beginning of a gives way to one of b's."""
    start = shared(a, b)
    if start in (len(a), len(b)):
        return None
    place, taken = int(random.integers(start, len(a))), int(random.integers(start, len(b)))
    return (*a[:place], b[taken], *a[place + 1 :])


def crossover(a: Row, b: Row, random: np.random.Generator) -> Row | None:
    """The shared beginning, the first of what a goes on with, the last of what b goes on with (at least one)."""
    start = shared(a, b)
    if start in (len(a), len(b)):
        return None
    first, last = int(random.integers(start, len(a) + 1)), int(random.integers(start, len(b)))
    return (*a[:first], *b[last:])


def settle(row: Row, parents: Sequence[Row], separator: Passage) -> Row:
    """The row as a solution: leading paragraphs of one parent stay what they were; everything behind them is context.

    A paragraph that ended its parent but not this row loses its stop token and gets a blank line (`separator`).
    """
    kept = max(_same_leading(row, parent) for parent in parents)
    settled = []
    for place, paragraph in enumerate(row):
        passage = paragraph.passage if place < kept else paragraph.passage.as_context()
        if paragraph.ends and place < len(row) - 1:
            settled.append(Paragraph(passage=Passage.join(passage[:-1], separator)))
        else:
            settled.append(replace(paragraph, passage=passage))
    return tuple(settled)


def _same_leading(row: Row, parent: Row) -> int:
    """By identity: a paragraph of equal tokens may have been drawn behind others."""
    same = [one is other for one, other in zip(row, parent, strict=False)]
    return (*same, False).index(False)
