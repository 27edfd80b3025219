"""The text that constraints look at, cut into words, lines, sentences and paragraphs once for all of them."""

import re
from dataclasses import dataclass
from functools import cached_property

WORD = re.compile(r"\w+")
ENDS = ".!?…"
WIDE_ENDS = re.compile(r"[。！？]+")  # no space follows these
CLOSERS = "\"'”’)]}*_»"
ABBREVIATIONS = frozenset(("mr", "mrs", "ms", "dr", "prof", "st", "jr", "sr", "vs", "etc", "e.g", "i.e", "cf"))


@dataclass(frozen=True)
class Answer:
    """`response` is all that the policy wrote, `text` what follows its reasoning, stripped."""

    response: str
    text: str

    @cached_property
    def lower(self) -> str:
        return self.text.lower()

    @cached_property
    def words(self) -> list[str]:
        r"""Runs of \w, as IFEval has it: "don't" is two, "well-known" is two."""
        return WORD.findall(self.text)

    @cached_property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @cached_property
    def sentences(self) -> int:
        """Pieces that end in . ! ? or an ellipsis before a space or the end; a last piece without an end counts.

        IFEval asks a trained splitter; ours knows initials, numbers and common abbreviations, and nothing else.
        """
        count, open_piece = 0, False
        for token in self.text.split():
            wide = len(WIDE_ENDS.findall(token))
            if wide:
                count, open_piece = count + wide, bool(WORD.search(WIDE_ENDS.split(token)[-1]))
                continue
            if WORD.search(token):
                open_piece = True
            bare = token.rstrip(CLOSERS)
            if open_piece and bare[-1:] and bare[-1] in ENDS and not is_abbreviation(bare):
                count, open_piece = count + 1, False
        return count + open_piece

    @cached_property
    def paragraphs(self) -> list[str]:
        """Runs of lines that are not blank."""
        found: list[list[str]] = [[]]
        for line in self.lines:
            if line.strip():
                found[-1].append(line)
            elif found[-1]:
                found.append([])
        return ["\n".join(lines) for lines in found if lines]


def is_abbreviation(token: str) -> bool:
    """`Dr.`, `e.g.`, and the initial `J.`, but not the word `I.`"""
    if not token.endswith(".") or token.endswith(".."):
        return False
    name = token[:-1].lstrip("\"'“‘([{*_")
    return name.lower() in ABBREVIATIONS or (len(name) == 1 and name.isupper() and name != "I")
