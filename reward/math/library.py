"""A reference outside our own language of answers (a sum, an integral, a function we do not know): math-verify's turn.

Its parser guesses at what it does not know, so it is only asked about a reference that is mathematics, and believed
only where both texts become an expression of sympy. Its own alarm is replaced by one that says whose fault it is: a
reference that takes too long alone is ours, an answer that takes too long beside a quick reference is the answer's,
or every policy could buy itself out of a group with (n + 1)^{99}(n + 2)^{99}.
"""

import contextlib
import functools
import logging
import signal
from collections.abc import Iterator

import sympy
from latex2sympy2_extended import latex2sympy
from math_verify import verify

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that we disable its alarm

DIGITS = 30
RELATIVE_TOLERANCE = 1e-6
AGAIN_S = 0.1
REFERENCES = 1024  # worked out and remembered


class Overrun(BaseException):
    """Time or memory is over. Not an Exception: sympy swallows those."""

    def __init__(self, guilty: str, cpu_s: float) -> None:
        super().__init__(f"the {guilty} is not worked out within {cpu_s:g} s of computing and a worker's memory")
        self.guilty = guilty


def library_says(answer: str, reference: str, cpu_s: float) -> bool:
    """Whether math-verify calls the two equal; False where it cannot read one of them.

    Raises Overrun: the reference has `cpu_s` seconds, and the answer beside it the same again.
    """
    if "\\" not in reference:
        return False
    wanted = worked_out(reference, cpu_s)
    with limited("answer", cpu_s):
        given = expression(answer)
        if wanted is None or given is None or wanted.free_symbols != given.free_symbols:
            return False
        return bool(verify([wanted], [given], timeout_seconds=None)) and not far_apart(wanted, given)


@functools.lru_cache(REFERENCES)
def worked_out(reference: str, cpu_s: float) -> sympy.Basic | None:
    """The expression of a reference that is told from a simple one in time. Raises Overrun."""
    with limited("reference", cpu_s):
        wanted = expression(reference)
        if isinstance(wanted, sympy.Expr):
            verify([wanted], [sympy.Add(1, *wanted.free_symbols)], timeout_seconds=None)
            value(wanted)
        return wanted


@contextlib.contextmanager
def limited(guilty: str, cpu_s: float) -> Iterator[None]:
    """So many seconds of this process, on its main thread. Raises Overrun, again where a library swallows it."""
    at_work = True

    def over(*_: object) -> None:
        if at_work:
            raise Overrun(guilty, cpu_s)

    before = signal.signal(signal.SIGVTALRM, over)
    signal.setitimer(signal.ITIMER_VIRTUAL, cpu_s, AGAIN_S)
    try:
        yield
    except (MemoryError, RecursionError) as error:
        raise Overrun(guilty, cpu_s) from error
    finally:
        at_work = False  # a signal between here and the next line does nothing
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


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
