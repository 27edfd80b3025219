r"""Is an answer the number itself, or a calculation that is left to the reader?

56, -\frac{3}{6}, 1 1/2, 5 \times 10^{6}, 50\%    numbers
7 \times 8, 100/4, 2^{10}, \sqrt{64}, 5!          calculations: they often just repeat the question
2\sqrt{2}, \frac{\pi}{4}                          values that have no other form; they answer a decimal reference
"""

from fractions import Fraction

from reward.math.evaluate import Evaluation, TooBig, Undefined, symbols_of
from reward.math.forms import Braced, Choice, Form, Named, Quantity
from reward.math.grammar import Node
from reward.math.reading import read

TEN: Node = ("number", Fraction(10))


def asked_number(reference: Form) -> Quantity | None:
    """The number that a reference is, named or not, or None where it is something else."""
    form = reference.value if isinstance(reference, Named) else reference
    return form if isinstance(form, Quantity) and is_number(form) else None


def is_left_undone(answer: Form, *, exact: bool) -> bool:
    """Whether something in it is still to be worked out. `exact`: the number asked for is rational, not rounded.

    Raises Unreadable for a choice whose meaning cannot be read.
    """
    if isinstance(answer, Named):
        return is_left_undone(answer.value, exact=exact)
    if isinstance(answer, Braced):
        return any(is_left_undone(item, exact=exact) for item in answer.items)
    if isinstance(answer, Choice):
        return bool(answer.meaning) and is_left_undone(read(answer.meaning), exact=exact)
    if not isinstance(answer, Quantity) or is_number(answer):
        return False
    return has_undone_part(answer.tree) or (exact and not symbols_of(answer.tree))  # 5m may be 5 metres


def is_number(side: Quantity) -> bool:
    return side.number.worked_out if side.number is not None else is_literal(side.tree)


def is_literal(tree: Node) -> bool:
    kind, *parts = tree
    if kind == "number":
        return True
    if kind == "-":
        return parts[0][0] != "-" and is_literal(parts[0])
    if kind == "/":
        over, under = whole(parts[0]), whole(parts[1])
        return bool(over is not None and under and (over % under or under == 1))
    if kind == "^":
        return parts[0] == TEN and whole(parts[1]) is not None
    return kind == "*" and len(parts) == 2 and parts[0][0] == "number" and parts[1][0] == "^" and is_literal(parts[1])


def whole(tree: Node) -> int | None:
    if tree[0] == "-":
        value = whole(tree[1])
        return None if value is None else -value
    return int(tree[1]) if tree[0] == "number" and tree[1].denominator == 1 else None


def has_undone_part(tree: Node) -> bool:
    """Whether an operation in it has a rational result, or a sum or product two rational parts."""
    if is_literal(tree) or tree[0] == "constant":
        return False
    parts = [part for part in tree[1:] if isinstance(part, tuple)]
    if is_rational(tree) or (tree[0] in ("+", "*") and sum(map(is_rational, parts)) > 1):
        return True
    return any(has_undone_part(part) for part in parts)


def is_rational(tree: Node) -> bool:
    if symbols_of(tree):
        return False
    try:
        return isinstance(Evaluation({}, None).of(tree), Fraction)
    except (TooBig, Undefined):
        return False
