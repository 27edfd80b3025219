r"""Answers that are plain numbers, compared by exact arithmetic: most of them, and without sympy.

Two exact numbers (integers, fractions, mixed numbers, powers of ten) are equal or not. A decimal may be rounded, so
with a decimal on either side a relative difference of 1e-6 is allowed (that of math-verify's six digits, but relative:
an absolute one calls all tiny numbers equal).
"""

import re
from dataclasses import dataclass
from fractions import Fraction

RELATIVE_TOLERANCE = Fraction(1, 10**6)
MAX_DIGITS = 200
MAX_POWER_OF_TEN = 400

SIGN = r"(?P<sign>[-+]?)\s*(?:\\?[$£€])?\s*(?P<sign2>[-+]?)\s*"
PERCENT = r"\s*(?P<percent>\\?%)?"
DECIMAL = re.compile(
    rf"^{SIGN}(?P<whole>\d*)(?:\.(?P<part>\d*))?"
    rf"(?:\s*(?:[eE](?P<power>[-+]?\d+)|(?:\\times|\\cdot|\*)\s*10\s*\^\s*\{{?(?P<power2>[-+]?\d+)\}}?))?{PERCENT}$"
)
FRACTION = re.compile(
    rf"^{SIGN}(?P<whole>\d+(?=\s|\\))?\s*(?:\\frac\{{\s*(?P<over>-?\d+)\s*\}}\{{\s*(?P<under>-?\d+)\s*\}}"
    rf"|(?P<over2>\d+)\s*/\s*(?P<under2>\d+)){PERCENT}$"
)


@dataclass(frozen=True, slots=True)
class Number:
    value: Fraction
    exact: bool
    percent: bool


def read_number(text: str) -> Number | None:
    """The number a tidy answer is, or None where it is something else."""
    if len(text) > MAX_DIGITS:
        return None
    match = FRACTION.match(text)
    if match:
        over, under = int(match["over"] or match["over2"]), int(match["under"] or match["under2"])
        if under == 0:
            return None
        value, exact = int(match["whole"] or 0) + Fraction(over, under), True
    else:
        match = DECIMAL.match(text)
        if not match or not (match["whole"] or match["part"]):
            return None
        power = int(match["power"] or match["power2"] or 0)
        if abs(power) > MAX_POWER_OF_TEN:
            return None
        value = Fraction(int((match["whole"] or "") + (match["part"] or "")), 1)
        value *= Fraction(10) ** (power - len(match["part"] or ""))
        exact = not match["part"] or value.denominator == 1
    if "-" in (match["sign"], match["sign2"]):
        value = -value
    return Number(value, exact, bool(match["percent"]))


def same_number(answer: Number, reference: Number) -> bool:
    """A percent sign that one of the two leaves out counts as a unit; both readings of it are accepted."""
    if answer.percent == reference.percent:
        return close(answer, reference)
    hundredth = Fraction(1, 100)
    return close(answer, reference) or close(
        Number(answer.value * (hundredth if answer.percent else 1), answer.exact, False),
        Number(reference.value * (hundredth if reference.percent else 1), reference.exact, False),
    )


def close(left: Number, right: Number) -> bool:
    if left.exact and right.exact:
        return left.value == right.value
    return abs(left.value - right.value) <= RELATIVE_TOLERANCE * max(abs(left.value), abs(right.value))
