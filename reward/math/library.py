"""A reference outside our own language of answers (a sum, an integral, a function we do not know): math-verify's turn.

Its parser guesses at what it does not know, so it is only asked about a reference that is mathematics, and believed
only where both texts become an expression of sympy. It runs without its alarm: the process has a deadline.
"""

import logging

import sympy
from latex2sympy2_extended import latex2sympy
from math_verify import verify

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that we disable its alarm

DIGITS = 30
RELATIVE_TOLERANCE = 1e-6


def library_says(answer: str, reference: str) -> bool:
    """Whether math-verify calls the two equal; False where it cannot read one of them."""
    if "\\" not in reference:
        return False
    sides = [expression(text) for text in (reference, answer)]
    if None in sides or sides[0].free_symbols != sides[1].free_symbols:
        return False
    return bool(verify([sides[0]], [sides[1]], timeout_seconds=None)) and not far_apart(*sides)


def expression(text: str) -> sympy.Basic | None:
    try:
        read = latex2sympy(text)
    except Exception:  # it raises whatever its grammar meets; a text it cannot read equals nothing
        return None
    known = isinstance(read, sympy.Basic | sympy.MatrixBase)
    return read if known and not read.has(sympy.nan, sympy.zoo) else None


def far_apart(reference: sympy.Basic, answer: sympy.Basic) -> bool:
    """True for two numbers that differ relatively: math-verify rounds to six places, where all tiny ones are equal."""
    numbers = [value(side) for side in (reference, answer)]
    if None in numbers:
        return False
    left, right = numbers
    return abs(left - right) > RELATIVE_TOLERANCE * max(abs(left), abs(right))


def value(side: sympy.Basic) -> sympy.Expr | None:
    """A number to 30 digits, real or complex, or None for anything else."""
    if not isinstance(side, sympy.Expr) or side.free_symbols:
        return None
    number = sympy.N(side, DIGITS)
    return number if number.is_number and number.is_finite else None
