r"""Answers that are plain numbers, compared by exact arithmetic: most of them, and without a process or a library.

Read        -5   1/2   \frac{1}{2}   1 1/2   0.5   .5   1.5e3   1.5\times10^{3}   0.\overline{3}   \$5   5\%
Exact       integers, fractions, mixed numbers, repeating decimals and decimals that are whole are equal or not.
Tolerance   A decimal may be rounded: with one on either side, the two are equal where they differ by at most 1e-6 of
            the larger *and* by less than one unit in the last place of the decimal with fewer places. So 0.333333 is
            1/3, 0.3333 is not, 3.14 is not 3.14159, and 1234567.5 is not 1234568.5. A decimal of 10 places and more
            comes from a machine; 1e-9 of the number takes the place of its last digit. (1e-6 is math-verify's; its
            own is absolute, which makes all tiny numbers equal. The second condition is ours.)
Percent     a percent sign that one side leaves out is a unit, and both readings of it count: 50% is 50 and 0.5.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

RELATIVE_TOLERANCE = Fraction(1, 10**6)
MACHINE_TOLERANCE = Fraction(1, 10**9)
MACHINE_PLACES = 10
MAX_CHARS = 200
MAX_POWER_OF_TEN = 400

SIGN = r"(?P<sign>[-+]?) ?(?:\\?[$£€] ?)?(?P<sign2>[-+]?) ?"
PERCENT = r"(?P<percent> ?\\?%| ?\\text\{ ?percent\}| percent)?"
DECIMAL = re.compile(
    rf"{SIGN}(?P<whole>\d*)(?:\.(?P<part>\d*)(?:\\(?:overline|bar|dot) ?\{{(?P<repeated>\d+)\}})?)?"
    r"(?: ?(?:[eE](?P<power>[-+]?\d+)|(?:\\times|\\cdot|\*|x) ?10 ?(?:\^|\*\*) ?\{?(?P<power2>[-+]?\d+)\}?))?"
    rf"{PERCENT}",
    re.ASCII,
)
FRACTION = re.compile(
    rf"{SIGN}(?:(?P<whole>\d+) ?(?=\\)|(?P<whole2>\d+) (?=\d))?"
    r"(?:\\frac\{ ?(?P<sign3>-?)(?P<over>\d+) ?\}\{ ?(?P<under>\d+) ?\}|(?P<over2>\d+) ?/ ?(?P<under2>\d+))"
    rf"{PERCENT}",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Number:
    """`places`: digits after the point as written, None for an exact number. `worked_out`: it is not 100/4."""

    value: Fraction
    places: int | None
    percent: bool = False
    worked_out: bool = True


def read_number(text: str) -> Number | None:
    """The number a tidy answer is, or None where it is something else."""
    if len(text) > MAX_CHARS:
        return None
    match = FRACTION.fullmatch(text)
    if match:
        return read_fraction(match)
    match = DECIMAL.fullmatch(text)
    if not match or not (match["whole"] or match["part"] or match["repeated"]):
        return None
    return read_decimal(match)


def read_fraction(match: re.Match[str]) -> Number | None:
    over, under = int(match["over"] or match["over2"]), int(match["under"] or match["under2"])
    whole = match["whole"] or match["whole2"]
    negative = [sign for sign in (match["sign"], match["sign2"], match["sign3"]) if sign]
    if under == 0 or len(negative) > 1 or (whole and (over >= under or match["sign3"])):
        return None  # 2 5/3 may be meant as a product
    value = int(whole or 0) + Fraction(over, under)
    worked_out = value.denominator > 1 or under == 1
    return Number(-value if "-" in negative else value, None, bool(match["percent"]), worked_out)


def read_decimal(match: re.Match[str]) -> Number | None:
    whole, part, repeated = match["whole"], match["part"] or "", match["repeated"]
    power = int(match["power"] or match["power2"] or 0)
    if abs(power) > MAX_POWER_OF_TEN or (match["sign"] and match["sign2"]):
        return None
    value = Fraction(int(whole + part or 0), 10 ** len(part))
    if repeated:
        value += Fraction(int(repeated), (10 ** len(repeated) - 1) * 10 ** len(part))
    value *= Fraction(10) ** power
    exact = repeated or (not part.strip("0") and not match["power"]) or value.denominator == 1
    negative = "-" in (match["sign"], match["sign2"])
    return Number(-value if negative else value, None if exact else len(part) - power, bool(match["percent"]))


def same_number(answer: Number, reference: Number) -> bool:
    if answer.percent == reference.percent:
        return close(answer, reference)
    return close(answer, reference) or close(as_fraction(answer), as_fraction(reference))


def as_fraction(number: Number) -> Number:
    if not number.percent:
        return number
    return Number(number.value / 100, None if number.places is None else number.places + 2)


def close(left: Number, right: Number) -> bool:
    if left.places is None and right.places is None:
        return left.value == right.value
    size = max(abs(left.value), abs(right.value))
    difference = abs(left.value - right.value)
    return difference == 0 or (
        difference <= RELATIVE_TOLERANCE * size
        and all(difference < last_place(one.places, size) for one in (left, right) if one.places is not None)
    )


def last_place(places: int, size: Fraction) -> Fraction:
    return MACHINE_TOLERANCE * size if places >= MACHINE_PLACES else Fraction(10) ** -places
