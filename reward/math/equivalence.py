"""Inside a worker process: are two expressions equal? math-verify parses and compares; its faults are mended here.

1/2^99 against 1/2^98    equal under its rounding to six places: numbers must also agree relatively
(1+i)^2 against 2i       its i is any letter: here it is the imaginary unit, where neither side has j or k
"""

import logging

import sympy
from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

logging.getLogger("math_verify").setLevel(
    logging.ERROR
)  # it warns that we disable its alarm; our parent has a deadline

RELATIVE_TOLERANCE = 1e-6
DIGITS = 30
CONFIG = [LatexExtractionConfig(), ExprExtractionConfig()]
IMAGINARY = "i"
VECTORS = {"j", "k"}


def judge(payload: dict) -> dict:
    """{"answer", "reference"} -> {"equal": bool}."""
    reference, answer = read(payload["reference"]), read(payload["answer"])
    if not reference or not answer:
        return {"equal": False}
    reference, answer = [[imaginary(part, reference, answer) for part in side] for side in (reference, answer)]
    equal = verify(reference, answer, timeout_seconds=None) and not far_apart(reference[0], answer[0])
    return {"equal": bool(equal)}


def read(text: str) -> list:
    return parse(f"${text}$", CONFIG, parsing_timeout=None)


def imaginary(part, *sides):
    """Read the letter i as the imaginary unit, unless the expressions look like vectors."""
    if not isinstance(part, (sympy.Basic, sympy.MatrixBase)):
        return part
    letters = {symbol.name for side in sides for one in side for symbol in getattr(one, "free_symbols", ())}
    if VECTORS & letters:
        return part
    # by name: the parser gives its symbols assumptions, so they equal no symbol of ours
    return part.subs({symbol: sympy.I for symbol in part.free_symbols if symbol.name == IMAGINARY})


def far_apart(reference, answer) -> bool:
    """True for two numbers that differ relatively: equal only because both are tiny."""
    numbers = [value(side) for side in (reference, answer)]
    if None in numbers:
        return False
    left, right = numbers
    return abs(left - right) > RELATIVE_TOLERANCE * max(abs(left), abs(right))


def value(side):
    """A number to 30 digits, real or complex, or None for anything else."""
    if not isinstance(side, sympy.Expr) or side.free_symbols:
        return None
    number = sympy.N(side, DIGITS)
    return number if number.is_number and number.is_finite else None
