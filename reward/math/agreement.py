r"""Do two expression trees have the same value, wherever they have one?

Constants   compared exactly where both are rational; else to AGREED_DIGITS digits below the smallest number on the way,
            so that 10^100 + \sqrt2 is not 10^100 + \sqrt3 and 1/2^99 is not 1/2^98.
Symbols     two expressions are equal where they agree at enough random points at which the reference is real
            (Schwartz-Zippel; the points are fresh each time, so no answer can be made to agree at them alone). They
            lie at every scale of SCALES on either side of zero, and where a function may have a bend (|x - 50|,
            \lfloor x \rfloor) also at and around the constants of both expressions. An answer has no symbol that the
            reference has not: a number is not answered with a formula.
\log        without a base is that of 10 or of e, the same on both sides.
"""

import itertools
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

SCALES = ((Fraction(1, 20), 1), (1, 10), (10, 150), (150, 3000), (3 * 10**5, 10**6))
SIGNS = ((1,), (-1,), (1, -1))
POINTS = len(SCALES) * 2
ROUNDS = 6  # a reference that is real near zero alone has enough points all the same
BENDS = 9  # points at and around constants
BENT = frozenset({"abs", "floor", "ceil", "max", "min", "gcd", "lcm", "root", "factorial"})
HALF = Fraction(1, 2)
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
    if answer == reference:
        return True
    return any(all_agree(answer, reference, sorted(names), base) for base in log_bases(answer, reference))


def work_out(tree: Node) -> None:
    """Raises TooBig where the tree alone cannot be compared with anything."""
    all_agree(tree, tree, sorted(symbols_of(tree)), log_bases(tree)[0])


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
    bends = points_at_bends(names, answer, reference)
    enough = len(SCALES) * (2 if len(names) == 1 else len(SIGNS)) + len(bends)
    for symbols in itertools.chain(bends, points(names)):
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
        if agreed == enough:
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
    """Random values, each scale with each sign; where signs differ, each symbol has its own scale, too."""
    for scale, signs in itertools.chain.from_iterable(itertools.repeat(list(itertools.product(SCALES, SIGNS)), ROUNDS)):
        mixed = len(signs) > 1
        if mixed and len(names) == 1:
            continue
        yield {name: drawn(RANDOM.choice(SCALES) if mixed else scale) * RANDOM.choice(signs) for name in names}


def drawn(scale: tuple[Fraction | int, Fraction | int]) -> Fraction:
    low, high = scale
    return Fraction(RANDOM.randrange(int(low * GRID), int(high * GRID)), GRID)


def points_at_bends(names: list[str], *trees: Node) -> list[Symbols]:
    """At the constants of the trees and on both sides of them, where a function in one may have a bend."""
    if all(is_smooth(tree) for tree in trees):
        return []
    constants = {sign * constant for tree in trees for constant in constants_of(tree) for sign in (1, -1)}
    around = {constant + step for constant in constants for step in (-HALF, HALF)} - constants
    values = [*shuffled(constants), *shuffled(around)][:BENDS]
    return [{name: value if at == 0 else RANDOM.choice(values) for at, name in enumerate(names)} for value in values]


def shuffled(values: set[Fraction]) -> list[Fraction]:
    return RANDOM.sample(sorted(values), len(values))


def is_smooth(tree: Node) -> bool:
    """Whether no function in it has a bend or a jump; one without agrees with another everywhere or nearly nowhere."""
    if tree[0] == "call" and (tree[1] in BENT or tree[1].startswith("arc")):
        return False
    if tree[0] == "^" and (tree[2][0] == "/" or (tree[2][0] == "number" and tree[2][1].denominator > 1)):
        return False
    return all(is_smooth(part) for part in tree[1:] if isinstance(part, tuple))


def constants_of(tree: Node) -> frozenset[Fraction]:
    """The rational values of its largest parts without symbols."""
    if not symbols_of(tree):
        try:
            value = Evaluation({}, None).of(tree)
        except (TooBig, Undefined):
            return frozenset()
        return frozenset({value}) if isinstance(value, Fraction) else frozenset()
    return frozenset().union(*(constants_of(part) for part in tree[1:] if isinstance(part, tuple)))


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
