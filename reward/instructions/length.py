"""Constraints on how much is written."""

import re
from dataclasses import dataclass
from typing import Literal

from reward.instructions.answer import Answer
from reward.instructions.constraint import Count, needs_text

DIVIDER = "***"
LEADING_QUOTES = "'\""
WORD_ENDS = re.compile(r"[.,?!'\"]")


@dataclass(frozen=True, kw_only=True)
class Words(Count):
    """IFEval length_constraints:number_words."""

    def count(self, answer: Answer) -> int:
        return len(answer.words)


@dataclass(frozen=True, kw_only=True)
class Sentences(Count):
    """IFEval length_constraints:number_sentences, with a simpler splitter (`Answer.sentences`)."""

    def count(self, answer: Answer) -> int:
        return answer.sentences


@dataclass(frozen=True, kw_only=True)
class Paragraphs(Count):
    """IFEval length_constraints:number_paragraphs: between dividers `***`, or between blank lines.

    An empty paragraph between two dividers fails; before the first or after the last divider it does not count.
    """

    separator: Literal["blank_line", "***"] = "blank_line"

    def count(self, answer: Answer) -> int | None:
        if self.separator == "blank_line":
            return len(answer.paragraphs)
        empty = [not piece.strip() for piece in answer.text.split(DIVIDER)]
        return None if any(empty[1:-1]) else len(empty) - sum(empty)


@dataclass(frozen=True, kw_only=True)
class FirstWord:
    """The n-th paragraph, from 1, begins with a word. IFEval length_constraints:nth_paragraph_first_word.

    `paragraphs` is how many there must be in all; None leaves that open.
    """

    paragraph: int
    word: str
    paragraphs: int | None = None

    def __post_init__(self) -> None:
        needs_text(word=self.word)
        if self.paragraph < 1:
            raise ValueError(f"paragraph is counted from 1, got {self.paragraph}")

    def __call__(self, answer: Answer) -> bool:
        found = answer.paragraphs
        if len(found) < self.paragraph or (self.paragraphs is not None and len(found) != self.paragraphs):
            return False
        token = found[self.paragraph - 1].split(maxsplit=1)[0].lstrip(LEADING_QUOTES)
        return WORD_ENDS.split(token, maxsplit=1)[0].lower() == self.word.lower()
