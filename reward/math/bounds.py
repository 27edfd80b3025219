r"""What is not read at all, and what a symbolic library is not shown.

Our own reader bounds itself: parts, nesting, and the size of every number before it is computed. math-verify does not,
and towers of powers, factorials, binomials and sums of big numbers are a few characters long and never end; so an
answer that goes to it is looked at first.
"""

import re

MAX_CHARS = 1000  # the longest reference in MATH has about 160
MAX_NESTING = 40  # brackets in brackets; the readers are recursive
LIBRARY_CHARS = 500
LIBRARY_DEPTH = 24
MAX_EXPONENT = 100
MAX_ARGUMENT = 1000  # of a factorial or a binomial

EXPONENT = re.compile(r"(?:\^|\*\*)\s?\{?\s?\(?\s?-?(\d+)", re.ASCII)
TOWER = re.compile(r"(?:\^|\*\*)[^+\-=,;&]{0,40}(?:\^|\*\*)")
LARGE_NUMBER = re.compile(r"\d{4,}", re.ASCII)
GROWING = re.compile(r"!|\\[dt]?binom(?![a-zA-Z])|\\(?:Gamma|zeta)(?![a-zA-Z])")
ITERATED = re.compile(
    r"\\(?:sum|prod|i*int|oint|lim|limsup|liminf|bigcup|bigcap|det|frac\s?\{?\s?(?:d|\\partial))(?![a-zA-Z])"
)


def too_long(text: str) -> str | None:
    return f"the answer has {len(text)} characters, at most {MAX_CHARS} are read" if len(text) > MAX_CHARS else None


def nesting(text: str) -> int:
    depth = deepest = 0
    for character in text:
        depth += (character in "{([") - (character in "})]")
        deepest = max(deepest, depth)
    return deepest


def out_of_bounds(text: str) -> str | None:
    """Why math-verify is not asked about an answer, or None where it is."""
    if len(text) > LIBRARY_CHARS:
        return f"it has {len(text)} characters, at most {LIBRARY_CHARS} are worked on"
    deepest = nesting(text)
    if deepest > LIBRARY_DEPTH:
        return f"it nests {deepest} brackets, at most {LIBRARY_DEPTH} are worked on"
    if TOWER.search(text) or any(len(found) > 3 or int(found) > MAX_EXPONENT for found in EXPONENT.findall(text)):
        return f"it has a tower of powers or an exponent above {MAX_EXPONENT}"
    if GROWING.search(text) and LARGE_NUMBER.search(text):
        return f"it has a factorial or binomial and a number above {MAX_ARGUMENT - 1}"
    if ITERATED.search(text):
        return "it has a sum, product, integral, derivative or limit to be worked out"
    return None
