r"""What kind of answer a text is: a value, a list, a set, a point, an interval, a matrix, an equation, a choice, words.

    "x = 3, 5"                ->  Several(("x", 3), ("x", 5))        any order
    "(-\infty,3)\cup(5,7]"    ->  Region of two pieces; so are "x < 3 or 5 < x \le 7" and "\mathbb{R}"
    "(1,2)"                   ->  Bracketed("(", ")"): a point or an open interval, which the other side decides
    "5 \text{ cm}"            ->  Quantity(5, cm)

`reward.math.reading` reads them, `reward.math.equivalence` compares them.
"""

from dataclasses import dataclass

from reward.math.grammar import Node
from reward.math.number import Number
from reward.math.units import Unit

FORMS = AUTO_FORM, NUMBER_FORM, ANY_FORM = "auto", "number", "any"  # what a reference may ask for
INFINITY: Node = ("constant", "infinity")
MINUS_INFINITY: Node = ("-", INFINITY)


@dataclass(frozen=True)
class Quantity:
    """A value with perhaps a unit; `number` where it is written as a plain number, `whole` with the unit as algebra."""

    tree: Node
    number: Number | None
    unit: Unit | None = None
    text: str = ""


@dataclass(frozen=True)
class Words:
    words: tuple[str, ...]


@dataclass(frozen=True)
class Choice:
    letter: str
    meaning: str


@dataclass(frozen=True)
class Based:
    """Digits in a base other than ten."""

    digits: str
    base: str


@dataclass(frozen=True)
class Clock:
    """A time of day or a ratio: 3:45."""

    parts: tuple[str, ...]
    half: str  # "a", "p" or ""


@dataclass(frozen=True)
class Named:
    """x = value."""

    name: str
    value: "Form"


@dataclass(frozen=True)
class Several:
    """Values in a row without brackets; their order means nothing unless the other side is in brackets."""

    items: tuple["Form", ...]


@dataclass(frozen=True)
class Bracketed:
    """(..), [..], \\langle..\\rangle with two and more items: ordered."""

    left: str
    right: str
    items: tuple["Form", ...]


@dataclass(frozen=True)
class Braced:
    items: tuple["Form", ...]


@dataclass(frozen=True)
class Piece:
    """An interval; a point where both ends are the same."""

    low: Node
    high: Node
    closed_low: bool
    closed_high: bool


@dataclass(frozen=True)
class Region:
    """A set of real numbers; `name` where it was written as inequalities of a variable."""

    pieces: tuple[Piece, ...]
    name: str = ""


@dataclass(frozen=True)
class Matrix:
    rows: tuple[tuple["Form", ...], ...]


@dataclass(frozen=True)
class Relation:
    r"""left - right compared with 0. `kind`: =, <, \le, \ne (> and \ge are turned round)."""

    kind: str
    difference: Node


Form = Quantity | Words | Choice | Based | Clock | Named | Several | Bracketed | Braced | Region | Matrix | Relation

REALS = Region((Piece(MINUS_INFINITY, INFINITY, False, False),))
