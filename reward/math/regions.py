"""Sets of real numbers made of intervals: unions, intersections, and whether two are the same."""

import contextlib
from fractions import Fraction

from reward.math.agreement import constant_value, same_value
from reward.math.evaluate import Undefined
from reward.math.forms import INFINITY, MINUS_INFINITY, Braced, Bracketed, Form, Piece, Quantity, Region
from reward.math.grammar import Node, Unreadable

INFINITE = float("inf")
End = Fraction | float


def as_region(form: Form) -> Region | None:
    """An interval written with brackets, or a set of numbers, as a region; None where it is neither."""
    if isinstance(form, Region):
        return form
    if isinstance(form, Braced):
        trees = [item.tree for item in form.items if isinstance(item, Quantity)]
        return Region(tuple(Piece(tree, tree, True, True) for tree in trees)) if len(trees) == len(form.items) else None
    if isinstance(form, Bracketed) and len(form.items) == 2:
        low, high = form.items
        if isinstance(low, Quantity) and isinstance(high, Quantity):
            return Region((Piece(low.tree, high.tree, form.left == "[", form.right == "]"),))
    return None


def position(end: Node) -> End:
    """Where an end lies on the line. Raises Unreadable where that depends on a symbol."""
    if end in (INFINITY, MINUS_INFINITY):
        return INFINITE if end == INFINITY else -INFINITE
    value = constant_value(end)
    if value is None:
        raise Unreadable("an end that is no real number")
    return value


def merged(pieces: list[Piece]) -> tuple[Piece, ...]:
    """In order, without overlaps and empty pieces. Raises Unreadable for ends that are symbols."""
    placed = sorted(
        ((position(piece.low), not piece.closed_low, position(piece.high), piece) for piece in pieces),
        key=lambda one: one[:2],
    )
    result: list[Piece] = []
    for low, low_open, high, piece in placed:
        if low > high or (low == high and (low_open or not piece.closed_high)):
            continue
        piece = Piece(
            piece.low, piece.high, piece.closed_low and low != -INFINITE, piece.closed_high and high != INFINITE
        )
        if result:
            last = result[-1]
            end = position(last.high)
            if low < end or (low == end and (last.closed_high or not low_open)):
                if (high, piece.closed_high) > (end, last.closed_high):
                    result[-1] = Piece(last.low, piece.high, last.closed_low, piece.closed_high)
                continue
        result.append(piece)
    return tuple(result)


def united(regions: list[Region]) -> Region:
    pieces = [piece for region in regions for piece in region.pieces]
    try:
        return Region(merged(pieces), regions[0].name)
    except Unreadable:
        return Region(tuple(pieces), regions[0].name)


def both(regions: list[Region]) -> Region:
    """The numbers in every region. Raises Unreadable for ends that are symbols."""
    pieces = list(regions[0].pieces)
    for region in regions[1:]:
        pieces = [common(one, other) for one in pieces for other in region.pieces]
        pieces = list(merged(pieces))
    return Region(merged(pieces), regions[0].name)


def common(one: Piece, other: Piece) -> Piece:
    lower = max(one, other, key=lambda piece: (position(piece.low), not piece.closed_low))
    upper = min(one, other, key=lambda piece: (position(piece.high), piece.closed_high))
    return Piece(lower.low, upper.high, lower.closed_low, upper.closed_high)


def without(region: Region, points: Braced) -> Region:
    regions = [region]
    for point in points.items:
        if not isinstance(point, Quantity):
            raise Unreadable("a point that is no number")
        below, above = Piece(MINUS_INFINITY, point.tree, False, False), Piece(point.tree, INFINITY, False, False)
        regions.append(Region((below, above)))
    return both(regions)


def same_region(answer: Region, reference: Region) -> bool:
    if answer.name and reference.name and answer.name != reference.name:
        return False
    left, right = list(answer.pieces), list(reference.pieces)
    with contextlib.suppress(Unreadable):  # ends that are symbols: compared as written
        left, right = list(merged(left)), list(merged(right))
    return len(left) == len(right) and all(same_piece(one, other) for one, other in zip(left, right, strict=True))


def same_piece(answer: Piece, reference: Piece) -> bool:
    return (answer.closed_low, answer.closed_high) == (reference.closed_low, reference.closed_high) and all(
        same_end(*ends) for ends in ((answer.low, reference.low), (answer.high, reference.high))
    )


def same_end(answer: Node, reference: Node) -> bool:
    infinite = (INFINITY, MINUS_INFINITY)
    if answer in infinite or reference in infinite:
        return answer == reference
    try:
        return same_value(answer, reference)
    except Undefined:
        return False
