r"""What a symbolic library is shown: expressions whose size tells that they will not be worked on for hours.

Towers of powers, factorials, binomials and sums of big numbers are a few characters long and never end.
"""

import re

MAX_CHARS = 500
MAX_DEPTH = 24
MAX_EXPONENT = 10_000
MAX_ARGUMENT = 1000  # of a factorial, a binomial, the bound of a sum

EXPONENT = re.compile(r"(?:\^|\*\*)\s*\{?\s*\(?\s*-?(\d+)")
TOWER = re.compile(r"(?:\^|\*\*)\s*[{(]?[^{}^+\-]*(?:\^|\*\*)")
FACTORIAL = re.compile(r"(\d+)\s*[})\]]*\s*!")
NESTED_FACTORIAL = re.compile(r"![\s)}\]]*!")
BINOMIAL = re.compile(r"\\[dt]?binom\s*\{?\s*(\d+)")
ITERATED = re.compile(r"\\(?:sum|prod|int|lim|bigcup|bigcap)(?![a-zA-Z])")
DIGITS = re.compile(r"\d{60,}")


def out_of_bounds(text: str) -> str | None:
    """Why an expression is not worked on, or None where it is."""
    if len(text) > MAX_CHARS:
        return f"the answer has {len(text)} characters, at most {MAX_CHARS} are read"
    depth = deepest = 0
    for character in text:
        depth += (character in "{([") - (character in "})]")
        deepest = max(deepest, depth)
    if deepest > MAX_DEPTH:
        return f"the answer nests {deepest} brackets, at most {MAX_DEPTH} are read"
    if any(int(exponent) > MAX_EXPONENT for exponent in EXPONENT.findall(text) if len(exponent) < 60) or TOWER.search(
        text
    ):
        return f"the answer has a tower of powers or an exponent above {MAX_EXPONENT}"
    if NESTED_FACTORIAL.search(text) or any(
        len(number) > 9 or int(number) > MAX_ARGUMENT for number in (*FACTORIAL.findall(text), *BINOMIAL.findall(text))
    ):
        return f"the answer has a factorial or binomial above {MAX_ARGUMENT}"
    if ITERATED.search(text) or DIGITS.search(text):
        return "the answer is not worked out (a sum, product, integral or limit) or has a number of 60 digits and more"
    return None
