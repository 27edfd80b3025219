"""The value of an expression tree: exact where it is rational, else to as many digits as it takes; bounded in any case.

A tree and values for its symbols enter; a Fraction or a complex mpmath number leaves. Numbers are kept below
2^MAX_BITS and away from 2^-MAX_BITS *before* an operation is carried out, so a tower of powers or a huge factorial is
`TooBig` at once and holds no core.
"""

import math
from collections.abc import Mapping
from fractions import Fraction

import mpmath

from reward.math.grammar import Node

MAX_BITS = 40_000  # about 12 000 decimal digits
MAX_FACTORIAL = 1000
DIGITS = 60
MAX_DIGITS = 1500  # of a number that is not rational: a function then takes about a millisecond
MAX_GAMMA_DIGITS = 150  # gamma takes a second at 1500

Value = Fraction | mpmath.mpc

ARC_OF_INVERSE = {"arccot": mpmath.acot, "arcsec": mpmath.asec, "arccsc": mpmath.acsc}
PLAIN = {
    "sin": mpmath.sin, "cos": mpmath.cos, "tan": mpmath.tan, "cot": mpmath.cot, "sec": mpmath.sec, "csc": mpmath.csc,
    "arcsin": mpmath.asin, "arccos": mpmath.acos, "arctan": mpmath.atan, **ARC_OF_INVERSE,
    "sinh": mpmath.sinh, "cosh": mpmath.cosh, "tanh": mpmath.tanh, "ln": mpmath.log,
}  # fmt: skip
TRIGONOMETRIC = frozenset({"sin", "cos", "tan", "cot", "sec", "csc"})
EXPONENTIAL = frozenset({"sinh", "cosh", "tanh"})


class TooBig(ArithmeticError):
    """A number on the way is larger, or nearer to zero, than is worked with."""


class Exhausted(TooBig):
    """Judging this answer has taken as much work as judging any may."""


class Undefined(ArithmeticError):
    """There is no value: a division by zero, a logarithm of zero, an infinity within an expression."""


class Work:
    """What judging one answer has cost, in functions of a thousand digits (about 3 ms each on one core)."""

    LIMIT = 300.0
    OF_PART = 30.0  # more for each value of a reference, which is not the answer's to choose
    OF_ANY = 0.02  # a function of a few digits

    def __init__(self) -> None:
        self._spent, self._limit = 0.0, self.LIMIT

    def start(self, parts: int = 0) -> None:
        self._spent, self._limit = 0.0, self.LIMIT + self.OF_PART * parts

    def spend(self, digits: int) -> None:
        self._spent += self.OF_ANY + (digits / 1000) ** 2
        if self._spent > self._limit:
            raise Exhausted("the work")


WORK = Work()  # of this process, which judges one answer at a time


class Evaluation:
    """One evaluation of trees under the same symbols, base of `log` and precision."""

    def __init__(self, symbols: Mapping[str, Fraction], log_base: Fraction | None, digits: int = DIGITS) -> None:
        self._symbols = symbols
        self._log_base = log_base  # of \log without a base; None: e
        self.digits = digits
        self._largest = self._smallest = 0  # log2 of the extremes on the way
        self._trigonometric = 0

    @property
    def span_digits(self) -> int:
        """Decimal digits between the largest and the smallest number on the way: what precision must cover."""
        return int((self._largest - self._smallest) * math.log10(2)) + 1

    @property
    def smallest_bits(self) -> int:
        """log2 of the smallest number on the way, at most 0."""
        return self._smallest

    def of(self, node: Node) -> Value:
        """Raises TooBig or Undefined."""
        with mpmath.workdps(self.digits):
            return self._value(node)

    def _value(self, node: Node) -> Value:
        kind = node[0]
        if kind == "number":
            return self._kept(node[1])
        if kind == "symbol":
            return self._symbols[node[1]]
        if kind == "constant":
            return constant(node[1])
        if kind == "-":
            return -self._value(node[1])
        if kind == "+":
            return self._sum([self._value(part) for part in node[1:]])
        if kind == "*":
            return self._product([self._value(part) for part in node[1:]])
        if kind == "/":
            under = self._value(node[2])
            if under == 0:
                raise Undefined("a division by zero")
            over = self._value(node[1])
            return self._kept(over / under if both_exact(over, under) else real(over) / real(under))
        if kind == "^":
            return self._kept(self._power(self._value(node[1]), self._value(node[2])))
        if kind == "degrees":
            value = self._value(node[1])
            return real(value) * mpmath.pi / 180 if self._trigonometric else value
        return self._kept(self._call(node[1], node[2:]))

    def _sum(self, values: list[Value]) -> Value:
        total = values[0]
        for value in values[1:]:
            total = self._kept(total + value if both_exact(total, value) else real(total) + real(value))
        return total

    def _product(self, values: list[Value]) -> Value:
        total = values[0]
        for value in values[1:]:
            total = self._kept(total * value if both_exact(total, value) else real(total) * real(value))
        return total

    def _power(self, base: Value, exponent: Value) -> Value:
        WORK.spend(self.digits)
        if base == 0:
            if not isinstance(exponent, Fraction) or exponent <= 0:
                raise Undefined("zero to a power that is not positive")
            return Fraction(0)
        if magnitude(exponent) > 32 or abs(float(abs(exponent))) * max(1, abs(magnitude(base))) > MAX_BITS:
            raise TooBig("a power")
        if isinstance(exponent, Fraction) and isinstance(base, Fraction):
            if exponent.denominator == 1:
                if bits(base) * abs(exponent.numerator) <= MAX_BITS:
                    return base**exponent.numerator
                if not self._symbols:
                    raise TooBig("a power")
            elif exponent.denominator % 2 and base < 0:  # the real root, as \sqrt[3]{-8} has it
                value = mpmath.power(real(-base), real(exponent))
                return -value if exponent.numerator % 2 else value
        return mpmath.power(real(base), real(exponent))

    def _call(self, name: str, arguments: tuple[Node, ...]) -> Value:
        self._trigonometric += name in TRIGONOMETRIC
        values = [self._value(argument) for argument in arguments]
        self._trigonometric -= name in TRIGONOMETRIC
        first = values[0]
        WORK.spend(self.digits)
        if name == "root":
            if not isinstance(values[1], Fraction) or values[1] == 0:
                raise Undefined("a root of no degree")
            return exact_root(first, values[1]) or self._power(first, 1 / values[1])
        if name in ("log", "lg") or (name == "ln" and first == 0):
            return self._logarithm(name, values)
        if name in PLAIN:
            if name in TRIGONOMETRIC and magnitude(first) > 200:
                raise TooBig("an angle")
            if name in EXPONENTIAL and magnitude(first) > 12:
                raise TooBig("a hyperbolic function")
            try:
                return PLAIN[name](real(first))
            except (ZeroDivisionError, ValueError) as error:
                raise Undefined(f"{name} has a pole") from error
        return integral_function(name, values)

    def _logarithm(self, name: str, values: list[Value]) -> Value:
        base = values[1] if len(values) > 1 else (Fraction(10) if name == "lg" else self._log_base)
        if values[0] == 0 or base in (0, 1):
            raise Undefined("a logarithm of zero")
        return mpmath.log(real(values[0])) / (1 if base is None else mpmath.log(real(base)))

    def _kept(self, value: Value) -> Value:
        """Raises TooBig for a number that is not worked with."""
        if isinstance(value, Fraction):
            if bits(value) > MAX_BITS:
                raise TooBig("a number")
        elif not mpmath.isfinite(value):
            raise Undefined("an infinity")
        if value != 0:
            size = magnitude(value)
            if abs(size) > MAX_BITS:
                raise TooBig("a number")
            self._largest, self._smallest = max(self._largest, size), min(self._smallest, size)
        return value


def constant(name: str) -> Value:
    if name == "infinity":
        raise Undefined("an infinity")
    return mpmath.mpc({"pi": mpmath.pi, "e": mpmath.e, "i": mpmath.mpc(0, 1)}[name])


def integral_function(name: str, values: list[Value]) -> Value:
    first = values[0]
    if name == "abs":
        return abs(first) if isinstance(first, Fraction) else mpmath.mpc(abs(first))
    if name in ("floor", "ceil"):
        if isinstance(first, Fraction):
            return Fraction(math.floor(first) if name == "floor" else math.ceil(first))
        return Fraction(int(mpmath.floor(first.real) if name == "floor" else mpmath.ceil(first.real)))
    if name in ("factorial", "binomial"):
        if max(magnitude(value) for value in values) > 10 or abs(float(abs(first))) > MAX_FACTORIAL:
            raise TooBig(f"a {name}")
        if all(isinstance(value, Fraction) and value.denominator == 1 and value >= 0 for value in values):
            whole = [int(value) for value in values]  # type: ignore[arg-type]
            return Fraction(math.factorial(whole[0]) if name == "factorial" else math.comb(*whole))
        if mpmath.mp.dps > MAX_GAMMA_DIGITS:
            raise TooBig(f"the precision of a {name}")
        try:
            return mpmath.gamma(real(first) + 1) if name == "factorial" else mpmath.binomial(*map(real, values))
        except ValueError as error:
            raise Undefined(f"a {name} of a negative number") from error
    if name in ("gcd", "lcm", "max", "min") and all(isinstance(value, Fraction) for value in values):
        if name in ("max", "min"):
            return max(values) if name == "max" else min(values)  # type: ignore[type-var]
        if all(value.denominator == 1 for value in values):  # type: ignore[union-attr]
            return Fraction((math.gcd if name == "gcd" else math.lcm)(*map(int, values)))  # type: ignore[arg-type]
    raise Undefined(f"{name} of these")


def exact_root(value: Value, degree: Fraction) -> Fraction | None:
    """The rational square root of a rational number, None where there is none."""
    if degree != 2 or not isinstance(value, Fraction) or value < 0:
        return None
    over, under = math.isqrt(value.numerator), math.isqrt(value.denominator)
    return Fraction(over, under) if (over**2, under**2) == (value.numerator, value.denominator) else None


def real(value: Value) -> mpmath.mpc:
    if isinstance(value, Fraction):
        return mpmath.mpc(mpmath.mpf(value.numerator) / value.denominator)
    return mpmath.mpc(value)


def both_exact(left: Value, right: Value) -> bool:
    return isinstance(left, Fraction) and isinstance(right, Fraction)


def bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def magnitude(value: Value) -> int:
    """About log2 of the size; 0 for zero."""
    if value == 0:
        return 0
    if isinstance(value, Fraction):
        return value.numerator.bit_length() - value.denominator.bit_length()
    return int(mpmath.mag(value))


def symbols_of(node: Node) -> frozenset[str]:
    if node[0] == "symbol":
        return frozenset({node[1]})
    return frozenset().union(*(symbols_of(part) for part in node[1:] if isinstance(part, tuple)))


def uses(node: Node, what: tuple[str, str]) -> bool:
    """Whether a constant occurs, or a function with one argument (\\log without a base)."""
    if node[:2] == what and len(node) <= 3:
        return True
    return any(uses(part, what) for part in node[1:] if isinstance(part, tuple))
