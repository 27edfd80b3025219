"""Where an answer may be cut: at separators that stand in no bracket."""

import re
from collections.abc import Iterator

BRACKET = re.compile(r"\\[lr]angle(?![a-zA-Z])|\\[{}]|\\(?:begin|end)\{\w+\}|\\.|[(){}\[\]]")
OPENING = {"(", "[", "{", r"\{", r"\langle"}
CLOSING = {")", "]", "}", r"\}", r"\rangle"}


def depths(text: str) -> Iterator[tuple[int, int, int]]:
    """(start, end, depth inside) of each bracket, in order."""
    depth = 0
    for match in BRACKET.finditer(text):
        token = match.group()
        if token in OPENING or token.startswith(r"\begin"):
            depth += 1
        elif token in CLOSING or token.startswith(r"\end"):
            depth -= 1
        else:
            continue
        yield match.start(), match.end(), depth


def cuts(text: str, pattern: re.Pattern[str]) -> list[re.Match[str]]:
    """Matches of the pattern outside of all brackets."""
    levels = list(depths(text))
    found, at, depth = [], 0, 0
    for match in pattern.finditer(text):
        while at < len(levels) and levels[at][0] < match.end():
            depth = levels[at][2]
            at += 1
        if depth == 0 and match.group():
            found.append(match)
    return found


def at_top_level(text: str, pattern: re.Pattern[str]) -> list[str]:
    return [match.group() for match in cuts(text, pattern)]


def split_top_level(text: str, pattern: re.Pattern[str]) -> list[str]:
    parts, since = [], 0
    for match in cuts(text, pattern):
        parts.append(text[since : match.start()].strip())
        since = match.end()
    return [*parts, text[since:].strip()]


def bracketed(text: str) -> tuple[str, str, str] | None:
    """(opening, closing, inside) where one pair of brackets holds the whole, else None."""
    levels = list(depths(text))
    if not levels or levels[0][0] != 0 or levels[-1][1] != len(text) or text.startswith(("{", r"\begin")):
        return None
    if any(depth <= 0 for _, _, depth in levels[:-1]) or levels[-1][2] != 0:
        return None
    left, right = text[: levels[0][1]], text[levels[-1][0] :]
    return left, right, text[levels[0][1] : levels[-1][0]].strip()
