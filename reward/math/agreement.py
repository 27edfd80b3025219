r"""Do two expression trees have the same value, wherever they have one?

Constants   compared exactly where both are rational; else to AGREED_DIGITS digits below the smallest number on the way,
            so that 10^100 + \sqrt2 is not 10^100 + \sqrt3 and 1/2^99 is not 1/2^98.
Symbols     two expressions are equal where they agree at POINTS random points at which the reference is real
            (Schwartz-Zippel; the points are fresh each time, so no answer can be made to agree at them alone). An
            answer has no symbol that the reference has not: a number is not answered with a formula.
\log        without a base is that of 10 or of e, the same on both sides.
"""

import random
from collections.abc import Iterator, Mapping
from fractions import Fraction

import mpmath

from reward.math.evaluate import (
    DIGITS,
    MAX_DIGITS,
    Evaluation,
    Exhausted,
    TooBig,
    Undefined,
    Value,
    real,
    symbols_of,
    uses,
)
from reward.math.grammar import Node

POINTS = 8
TRIES = 24
RANGES = ((1, 20), (180, 200), (1, 60))  # in twentieths: |x - 5| is told from 5 - x beyond 9 for certain
SIGNS = ((1,), (-1,), (1, -1), (1,))  # with RANGES: small and large of either sign among the first POINTS
AGREED_DIGITS = 40
RANDOM = random.SystemRandom()
GRID = 1 << 30
IMAGINARY = ("constant", "i")
BARE_LOG = ("call", "log")

Symbols = Mapping[str, Fraction]


def same_value(answer: Node, reference: Node) -> bool:
    """Raises TooBig, and Undefined where the reference has no value."""
    names = symbols_of(reference)
    if not symbols_of(answer) <= names:
        return False
    return any(all_agree(answer, reference, sorted(names), base) for base in log_bases(answer, reference))


def log_bases(*trees: Node) -> tuple[Fraction | None, ...]:
    return (Fraction(10), None) if any(uses(tree, BARE_LOG) for tree in trees) else (None,)


def all_agree(answer: Node, reference: Node, names: list[str], base: Fraction | None) -> bool:
    if not names:
        try:
            return agree(*settled((answer, reference), {}, base))
        except Undefined:
            return False
    complex_points, agreed = [], 0
    too_big: TooBig | None = None
    for symbols in points(names):
        try:
            values, tolerance = settled((answer, reference), symbols, base)
        except Undefined:
            continue
        except TooBig as error:
            if isinstance(error, Exhausted):
                raise
            too_big = error
            continue
        if not is_real(values[1], tolerance) and not uses(reference, IMAGINARY):
            complex_points.append((values, tolerance))
            continue
        if not agree(values, tolerance):
            return False
        agreed += 1
        if agreed == POINTS:
            return True
    seen = agreed + len(complex_points)
    if seen < POINTS // 2 and too_big is not None:
        raise too_big
    return seen >= POINTS // 2 and all(agree(*point) for point in complex_points)


def proportional(answer: Node, reference: Node, *, positive: bool) -> bool:
    """Whether answer = c * reference for a number c other than 0, above 0 where `positive`: the same equation."""
    names = symbols_of(reference)
    if symbols_of(answer) != names or not names:
        return False
    base = log_bases(answer, reference)[0]
    first: tuple[Value, Value] | None = None
    agreed = 0
    for symbols in points(sorted(names)):
        try:
            (left, right), tolerance = settled((answer, reference), symbols, base)
        except Undefined:
            continue
        if first is None:
            if left == 0 or right == 0:
                continue
            first = left, right
            ratio = real(left) / real(right)
            if abs(ratio.imag) > tolerance or (positive and ratio.real < 0):
                return False
            continue
        if not agree((product(left, first[1]), product(right, first[0])), tolerance):
            return False
        agreed += 1
        if agreed == POINTS:
            return True
    return agreed >= POINTS // 2


def settled(trees: tuple[Node, Node], symbols: Symbols, base: Fraction | None) -> tuple[list[Value], mpmath.mpf]:
    """Both values, precise enough to be compared, and the difference that counts as none."""
    first = Evaluation(symbols, base)
    values = [first.of(tree) for tree in trees]
    if all(isinstance(value, Fraction) for value in values):
        return values, mpmath.mpf(0)
    digits = DIGITS + first.span_digits
    if digits > MAX_DIGITS:
        raise TooBig("the precision")
    finer = Evaluation(symbols, base, digits)
    return [finer.of(tree) for tree in trees], mpmath.ldexp(mpmath.mpf(10) ** -AGREED_DIGITS, first.smallest_bits)


def agree(values: list[Value] | tuple[Value, Value], tolerance: mpmath.mpf) -> bool:
    left, right = values
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left == right
    with mpmath.workdps(MAX_DIGITS):
        return abs(real(left) - real(right)) <= tolerance


def is_real(value: Value, tolerance: mpmath.mpf) -> bool:
    return isinstance(value, Fraction) or abs(value.imag) <= tolerance


def product(left: Value, right: Value) -> Value:
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left * right
    with mpmath.workdps(MAX_DIGITS):
        return real(left) * real(right)


def points(names: list[str]) -> Iterator[Symbols]:
    """Random values of either sign, small and not so small."""
    for attempt in range(TRIES):
        (low, high), signs = RANGES[attempt % len(RANGES)], SIGNS[attempt % len(SIGNS)]
        yield {
            name: Fraction(RANDOM.randrange(low * GRID, high * GRID), 20 * GRID) * RANDOM.choice(signs)
            for name in names
        }


def constant_value(tree: Node) -> Fraction | None:
    """A tree without symbols as a real number to DIGITS digits, or None. Raises TooBig."""
    if symbols_of(tree) or uses(tree, BARE_LOG):
        return None
    try:
        value = Evaluation({}, None).of(tree)
    except Undefined:
        return None
    if isinstance(value, Fraction):
        return value
    if abs(value.imag) > abs(value.real) * mpmath.mpf(10) ** -AGREED_DIGITS:
        return None
    mantissa, exponent = value.real.man_exp
    return Fraction(int(mantissa)) * Fraction(2) ** int(exponent)
