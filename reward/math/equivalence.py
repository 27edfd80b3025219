r"""Inside a worker process: is the answer equal to the reference?

Both are read as forms (`reward.math.reading`) and compared form by form. What is decided here:

    units      left out on one side: accepted; different quantities: not equal; 500 cm is 5 m
    lists      "1, 2" equals "2, 1" and \{1, 2\}; against (1, 2) the order counts; every value is there, and no other
    (1, 2)     a point or an open interval, as the other side has it; [1, 2] is neither
    x = 5      equals 5; y = 5 does not equal x = 5; 2x + y = 1 equals 4x + 2y = 2
    choices    (C), C., "option C" and "C) 42" are C; two letters are none
    bases      101_2 equals 101, the base left out, not 5 and not 101_3
    the rest   a reference outside the language of answers goes to math-verify, its answer with it (`library`)
"""

from collections.abc import Iterator
from fractions import Fraction

from reward.math.agreement import constant_value, proportional, same_value, work_out
from reward.math.bounds import MAX_NESTING, nesting, out_of_bounds
from reward.math.evaluate import WORK, TooBig, Undefined, symbols_of
from reward.math.forms import (
    ANY_FORM,
    AUTO_FORM,
    INFINITY,
    MINUS_INFINITY,
    NUMBER_FORM,
    Based,
    Braced,
    Bracketed,
    Choice,
    Clock,
    Form,
    Matrix,
    Named,
    Quantity,
    Region,
    Relation,
    Several,
    Words,
)
from reward.math.grammar import Node, Unreadable, parse
from reward.math.library import Overrun, library_says
from reward.math.number import Number, close, same_number
from reward.math.reading import read
from reward.math.regions import as_region, same_region
from reward.math.units import scales
from reward.math.words import WORD, WRAPPED, folded
from reward.math.worked import asked_number, is_left_undone
from reward.messages import Status

HALF_DAY_MINUTES = 12 * 60
CPU_S = 2.0  # where the payload does not say


def judge(payload: dict) -> dict:
    """{"answer", "reference", "form", "cpu_s"}, tidy -> {"equal": bool}, or {"status", "detail"} where that fails.

    `cpu_s`: seconds that math-verify may take for the reference, and again for the answer.
    """
    WORK.start()
    answer_text, reference_text = payload["answer"], payload["reference"]
    try:
        reference = read_whole(reference_text)
    except Unreadable:
        if folded(answer_text) == folded(reference_text):
            return {"equal": True}
        return by_library(answer_text, reference_text, payload.get("cpu_s", CPU_S))
    except (TooBig, Undefined) as error:
        return {"status": Status.ERROR.value, "detail": f"the reference cannot be worked out: {error} is too big"}
    WORK.start(parts=sum(1 for _ in trees_of(reference)))
    try:
        answer = read_whole(answer_text)
        if is_refused(answer, reference, payload.get("form", AUTO_FORM)):
            return {"equal": False}
        return {"equal": same(answer, reference) or same_words(answer_text, reference_text)}
    except (Unreadable, Undefined):
        return {"equal": same_words(answer_text, reference_text)}
    except TooBig as error:
        guilty = "reference" if too_big(reference) else "answer"
        status = Status.ERROR if guilty == "reference" else Status.MALFORMED
        return {"status": status.value, "detail": f"the {guilty} is not worked out: {error} is too big"}


def read_whole(text: str) -> Form:
    """Raises Unreadable, TooBig or Undefined; never RecursionError, by which an answer would pass for a fault."""
    if nesting(text) > MAX_NESTING:
        raise Unreadable(f"the answer nests more than {MAX_NESTING} brackets")
    return read(text)


def is_refused(answer: Form, reference: Form, form: str) -> bool:
    """Whether a number is asked for, and the answer is a calculation."""
    if form == ANY_FORM:
        return False
    asked = asked_number(reference)
    if form == NUMBER_FORM:
        return asked_number(answer) is None
    return asked is not None and is_left_undone(answer, exact=asked.number is None or asked.number.places is None)


def too_big(reference: Form) -> bool:
    """Whether a reference alone is more than may be worked out; its parts one by one, as an equal answer takes it."""
    trees = list(trees_of(reference))
    WORK.start(parts=len(trees))
    try:
        for tree in trees:
            work_out(tree)
    except TooBig:
        return True
    except (Unreadable, Undefined):
        return False
    return False


def trees_of(form: Form) -> Iterator[Node]:
    if isinstance(form, Quantity):
        yield form.tree
    elif isinstance(form, Relation):
        yield form.difference
    elif isinstance(form, Named):
        yield from trees_of(form.value)
    elif isinstance(form, Several | Bracketed | Braced):
        for item in form.items:
            yield from trees_of(item)
    elif isinstance(form, Matrix):
        for row in form.rows:
            for item in row:
                yield from trees_of(item)
    elif isinstance(form, Region):
        for piece in form.pieces:
            yield from (end for end in (piece.low, piece.high) if end not in (INFINITY, MINUS_INFINITY))


def by_library(answer: str, reference: str, cpu_s: float) -> dict:
    refused = out_of_bounds(answer) or out_of_reach(answer)
    if refused:
        return {"status": Status.MALFORMED.value, "detail": f"the answer is not worked on: {refused}"}
    try:
        return {"equal": library_says(answer, reference, cpu_s)}
    except Overrun as error:
        status = Status.TIMEOUT if error.guilty == "reference" else Status.MALFORMED
        return {"status": status.value, "detail": str(error)}


def out_of_reach(answer: str) -> str | None:
    """Why math-verify is not asked about an answer that we can read, or None where it is."""
    try:
        for tree in trees_of(read_whole(answer)):
            work_out(tree)
    except TooBig as error:
        return f"{error} is too big"
    except (Unreadable, Undefined):
        pass
    return None


def same_words(answer: str, reference: str) -> bool:
    r"""\text{Bob} and Bob, which alone is a product of letters."""
    wrapped = any(WORD.search(inside) for inside in WRAPPED.findall(answer) + WRAPPED.findall(reference))
    return bool(wrapped and "\\" not in WRAPPED.sub("", answer + reference) and folded(answer) == folded(reference))


def same(answer: Form, reference: Form) -> bool:
    """Raises TooBig, Undefined or Unreadable."""
    if isinstance(reference, Choice) or isinstance(answer, Choice):
        return same_choice(answer, reference)
    if isinstance(reference, Named) or isinstance(answer, Named):
        return same_named(answer, reference)
    if isinstance(reference, Several) or isinstance(answer, Several):
        return same_several(answer, reference)
    if isinstance(reference, Region) or isinstance(answer, Region):
        regions = as_region(answer), as_region(reference)
        return regions[0] is not None and regions[1] is not None and same_region(regions[0], regions[1])
    if isinstance(reference, Clock) or isinstance(answer, Clock):
        return same_clock(answer, reference)
    if isinstance(reference, Based) or isinstance(answer, Based):
        return same_based(answer, reference)
    if isinstance(reference, Braced) or isinstance(answer, Braced):
        return same_sets(answer, reference)
    if isinstance(answer, Quantity) and isinstance(reference, Quantity):
        return same_quantity(answer, reference)
    if isinstance(answer, Bracketed) and isinstance(reference, Bracketed):
        ends = (answer.left, answer.right) == (reference.left, reference.right)
        return ends and same_in_order(answer.items, reference.items)
    if isinstance(answer, Matrix) and isinstance(reference, Matrix):
        return len(answer.rows) == len(reference.rows) and all(map(same_in_order, answer.rows, reference.rows))
    if isinstance(answer, Relation) and isinstance(reference, Relation):
        directed = reference.kind in ("<", r"\le")
        return answer.kind == reference.kind and proportional(
            answer.difference, reference.difference, positive=directed
        )
    return isinstance(answer, Words) and answer == reference


def same_choice(answer: Form, reference: Form) -> bool:
    if isinstance(answer, Choice) and isinstance(reference, Choice):
        return answer.letter == reference.letter
    if isinstance(reference, Choice):
        return bool(reference.meaning) and same(answer, read(reference.meaning))
    return isinstance(answer, Choice) and bool(answer.meaning) and same(read(answer.meaning), reference)


def same_named(answer: Form, reference: Form) -> bool:
    if isinstance(answer, Named) and isinstance(reference, Named) and answer.name == reference.name:
        return same(answer.value, reference.value)
    equations = [equation(side) for side in (answer, reference)]
    if isinstance(answer, Named | Relation) and isinstance(reference, Named | Relation):
        return None not in equations and proportional(equations[0], equations[1], positive=False)
    if isinstance(answer, Named):
        return same(answer.value, reference)
    return isinstance(reference, Named) and same(answer, reference.value)


def equation(side: Form) -> Node | None:
    """What an equation says is zero, or None where the side is no equation in several symbols."""
    if isinstance(side, Relation) and side.kind == "=":
        return side.difference
    if isinstance(side, Named) and isinstance(side.value, Quantity) and symbols_of(side.value.tree):
        return ("+", parse(side.name), ("-", side.value.tree))
    return None


def same_several(answer: Form, reference: Form) -> bool:
    one, other = listed(answer), listed(reference)
    if is_interval(answer) or is_interval(reference):
        return False
    if isinstance(answer, Bracketed) or isinstance(reference, Bracketed):
        return same_in_order(one, other)
    distinct = isinstance(answer, Braced) or isinstance(reference, Braced)
    return same_in_any_order(one, other, distinct=distinct)


def is_interval(form: Form) -> bool:
    """(1, 2] and [1, 2]; (1, 2) may be a point, and [1, 2, 3] is a list."""
    return isinstance(form, Bracketed) and len(form.items) == 2 and (form.left, form.right) != ("(", ")")


def listed(form: Form) -> tuple[Form, ...]:
    return form.items if isinstance(form, Several | Bracketed | Braced) else (form,)


def same_sets(answer: Form, reference: Form) -> bool:
    if isinstance(answer, Bracketed) or isinstance(reference, Bracketed):
        return False
    return same_in_any_order(listed(answer), listed(reference), distinct=True)


def same_in_order(answer: tuple[Form, ...], reference: tuple[Form, ...]) -> bool:
    return len(answer) == len(reference) and all(same(*pair) for pair in zip(answer, reference, strict=True))


def same_in_any_order(answer: tuple[Form, ...], reference: tuple[Form, ...], *, distinct: bool) -> bool:
    if distinct:
        met = set()
        for one in answer:
            found = next((at for at, other in enumerate(reference) if same(one, other)), None)
            if found is None:
                return False
            met.add(found)
        return all(at in met or any(same(one, other) for one in answer) for at, other in enumerate(reference))
    left = list(answer)
    for other in reference:
        found = next((at for at, one in enumerate(left) if same(one, other)), None)
        if found is None:
            return False
        left.pop(found)
    return not left


def same_clock(answer: Form, reference: Form) -> bool:
    if isinstance(answer, Clock) and isinstance(reference, Clock):
        if [int(part) for part in answer.parts] == [int(part) for part in reference.parts]:
            return answer.half == reference.half or not (answer.half and reference.half)
        if answer.half or reference.half:
            return minutes(answer) == minutes(reference)
        return not (looks_like_time(answer) or looks_like_time(reference)) and ratio(answer) == ratio(reference)
    clock, other = (answer, reference) if isinstance(answer, Clock) else (reference, answer)
    assert isinstance(clock, Clock)
    if clock.half or looks_like_time(clock) or len(clock.parts) != 2 or int(clock.parts[1]) == 0:
        return False
    value = Fraction(int(clock.parts[0]), int(clock.parts[1]))
    return isinstance(other, Quantity) and other.number is not None and close(Number(value, None), other.number)


def looks_like_time(clock: Clock) -> bool:
    return len(clock.parts[1]) == 2 and int(clock.parts[0]) < 24 and int(clock.parts[1]) < 60


def minutes(clock: Clock) -> tuple[int, ...]:
    hour, *rest = (int(part) for part in clock.parts)
    return (hour % 12 + 12 * (clock.half == "p") if clock.half else hour, *rest)


def ratio(clock: Clock) -> list[Fraction]:
    parts = [int(part) for part in clock.parts]
    total = sum(parts)
    return [Fraction(part, total) for part in parts] if total else []


def same_based(answer: Form, reference: Form) -> bool:
    if isinstance(answer, Based) and isinstance(reference, Based):
        return answer == reference
    based, other = (answer, reference) if isinstance(answer, Based) else (reference, answer)
    assert isinstance(based, Based)
    if based is answer and based.base != "10":
        return False  # only a base that was asked for may be left out
    if not isinstance(other, Quantity) or other.number is None or other.number.places is not None or other.unit:
        return False
    return str(other.number.value) == based.digits


def same_quantity(answer: Quantity, reference: Quantity) -> bool:
    if INFINITY in (answer.tree, reference.tree) or MINUS_INFINITY in (answer.tree, reference.tree):
        return answer.tree == reference.tree
    if answer.unit and symbols_of(reference.tree) and not reference.unit:
        return same_value(parse(answer.text), reference.tree)  # 5 m is 5 metres, or five times m
    if reference.unit and symbols_of(answer.tree) and not symbols_of(reference.tree):
        return same_value(answer.tree, parse(reference.text))
    scale = scales(answer.unit, reference.unit)
    if scale is None:
        return False
    numbers = [as_number(side) for side in (answer, reference)]
    if any(side.number is not None for side in (answer, reference)) and None not in numbers:
        one, other = (scaled(number, factor) for number, factor in zip(numbers, scale, strict=True) if number)
        if answer.number is not None and reference.number is not None:
            return same_number(one, other)
        if any(number is not None and (number.places is not None or number.percent) for number in numbers):
            return same_number(one, other)
    trees = [
        side.tree if factor == 1 else ("*", ("number", factor), side.tree)
        for side, factor in zip((answer, reference), scale, strict=True)
    ]
    return same_value(trees[0], trees[1])


def as_number(side: Quantity) -> Number | None:
    if side.number is not None:
        return side.number
    value = constant_value(side.tree)
    return None if value is None else Number(value, None)


def scaled(number: Number, factor: Fraction) -> Number:
    return number if factor == 1 else Number(number.value * factor, number.places, number.percent)
