r"""Read a tidy answer as one of the forms of `reward.math.forms`.

From the outside in: words and choices; values in a row; unions; comparisons; brackets; one value with its unit. The
reader is strict: what it does not understand raises Unreadable, and then equals only the same text.
"""

import re

from reward.math.agreement import same_value
from reward.math.evaluate import TooBig, Undefined, symbols_of
from reward.math.forms import (
    INFINITY,
    MINUS_INFINITY,
    REALS,
    Based,
    Braced,
    Bracketed,
    Choice,
    Clock,
    Form,
    Matrix,
    Named,
    Piece,
    Quantity,
    Region,
    Relation,
    Several,
    Words,
)
from reward.math.grammar import Node, Unreadable, parse
from reward.math.number import read_number
from reward.math.regions import as_region, both, united, without
from reward.math.split import at_top_level, bracketed, split_top_level
from reward.math.units import Unit, split_unit
from reward.math.words import NUMBERS, WORDS_FOR, WRAPPED, number_word, read_words

MAX_PARTS = 60
POWERS_OF_TEN = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
CHOICE = re.compile(
    r"(?i:option|choice|answer)? ?(?:\\text\{ ?)?(?P<left>\(?)(?P<letter>[A-J]|(?<=\()[a-e])(?P<right>\)|\.|:)?"
    r"(?: ?\})?(?P<rest>.+)?"
)
OTHER_CHOICE = re.compile(r"(?<![a-zA-Z\\])[A-J](?![a-zA-Z])")
BASED = re.compile(
    r"(?P<digits>[0-9A-Fa-f]+)_(?:\{ ?(?:\\text\{ ?)?(?P<base>\w+)(?: ?\})? ?\}|(?P<base2>\d))", re.ASCII
)
CLOCK = re.compile(
    r"(\d+) ?: ?(\d+)(?: ?: ?(\d+))? ?(?:\\text\{)? ?(?:([ap])\.? ?m\b\.?)?\}?", re.ASCII | re.IGNORECASE
)
RATIO_WORDS = re.compile(r"(\d+) (?:to|\\text\{ ?to ?\}) (\d+)", re.ASCII)
SEPARATOR = re.compile(
    r" ?[,;] ?(?:\\text\{ ?(?:and|or) ?\}|and\b|or\b)? ?| ?\\text\{ ?,? ?(?:and|or) ?\} ?| (?:and|or) | ?\\lor ?"
)
OR = re.compile(r" or |\\text\{ ?or ?\}|\\lor")
CUP = re.compile(r" ?(?:\\cup|\bU\b) ?")
MINUS_SET = re.compile(r"\\setminus(?![a-zA-Z])|\\backslash(?![a-zA-Z])")
COMPARED = re.compile(r" ?(?:\\le|\\ge|\\ne|\\approx|\\in|\\equiv)(?![a-zA-Z]) ?| ?(?:<=|>=|!=|[<>=]) ?")
SPELLED = {"<=": r"\le", ">=": r"\ge", "!=": r"\ne", r"\approx": "=", r"\equiv": "="}
TURNED = {">": "<", r"\ge": r"\le"}
SYMBOL = r"(?:\\?[a-zA-Z]+|\\vec ?\{[a-z]\}|\\mathbf ?\{[a-z]\})(?:_(?:\{?\w{1,3}\}?))?'?"
NAME = re.compile(rf"{SYMBOL}(?:\^\{{?-1\}}?)?(?: ?\( ?[a-zA-Z](?: ?, ?[a-zA-Z])* ?\))?", re.ASCII)
NAMES = re.compile(r"\( ?\\?[a-zA-Z]+(?: ?, ?\\?[a-zA-Z]+)+ ?\)", re.ASCII)
LABEL = re.compile(r"(?:\\text\{[a-zA-Z ]*\}|[a-zA-Z ]{4,})")
DENIED = re.compile(
    r"(?i)\b(?:not|no|nor|never|neither|either|nothing|or|wrong|wrongly|incorrect|false|except|unless|but|isnt|nt|maybe"
    r"|perhaps|if|unlike|than)\b"
)
MATRIX = re.compile(r"\\begin\{([pbBv]?matrix|array)\}(?:\{[clr|]*\})?(.*)\\end\{\1\}")
INFINITE = re.compile(r"([-+]?) ?(?:\\infty|infinity|oo|inf)", re.IGNORECASE)
PLUS_MINUS = re.compile(r"\\(?:pm|mp)(?![a-zA-Z])|\+/-|\+-(?=\\)")


def read(text: str) -> Form:
    """Raises Unreadable."""
    words = WORDS_FOR.get(text.lower().strip(" .").removeprefix("\\text{").removesuffix("}").strip(" ."))
    if words is not None:
        return REALS if words == "reals" else Braced(()) if words == "empty" else Words((words,))
    choice = CHOICE.fullmatch(text)
    if choice and (choice["right"] if choice["rest"] else choice["right"] or choice["letter"].isupper()):
        return read_choice(choice["letter"].upper(), (choice["rest"] or "").strip(" .:"))
    as_words = read_words(text)
    if as_words is not None:
        if len(as_words) == 1 and as_words[0] in NUMBERS:
            return read_quantity(number_word(as_words[0]))
        return Words(as_words)
    wrapped = WRAPPED.fullmatch(text)
    return read_rows(wrapped[1].strip() if wrapped else text)


def read_choice(letter: str, meaning: str) -> Choice:
    if OTHER_CHOICE.search(meaning) or OR.search(meaning):
        raise Unreadable("several choices")
    return Choice(letter, meaning)


def read_rows(text: str) -> Form:
    if "\\begin" not in text:
        parts = split_top_level(text, SEPARATOR)
        if len(parts) > MAX_PARTS:
            raise Unreadable(f"the answer has {len(parts)} parts, at most {MAX_PARTS} are read")
        if len(parts) > 1:
            return several([read_alternatives(part) for part in parts], either=bool(at_top_level(text, OR)))
    return read_alternatives(text)


def read_alternatives(text: str) -> Form:
    r"""a \pm b is two values."""
    if not PLUS_MINUS.search(text):
        return read_one(text)
    if r"\mp" in text and r"\pm" not in text:
        raise Unreadable("\\mp alone")
    upper = text.replace(r"\pm", "+").replace(r"\mp", "-").replace("+/-", "+")
    lower = text.replace(r"\pm", "-").replace(r"\mp", "+").replace("+/-", "-")
    return several([read_one(re.sub(r"\s+", " ", one).strip()) for one in (upper, lower)], either=True)


def several(parts: list[Form], *, either: bool) -> Form:
    flat: list[Form] = []
    for part in parts:
        flat.extend(part.items if isinstance(part, Several) else [part])
    if (
        all(isinstance(part, Region) for part in flat)
        and len({part.name for part in flat if isinstance(part, Region)}) == 1
    ):
        regions = [part for part in flat if isinstance(part, Region)]
        return (united if either or not regions[0].name else both)(regions)
    name = ""
    named: list[Form] = []
    for part in flat:  # "x = 1, 2" names both
        if isinstance(part, Named):
            name = part.name
        named.append(Named(name, part) if name and isinstance(part, Quantity) else part)
    return Several(tuple(named))


def read_one(text: str) -> Form:
    parts = split_top_level(text, CUP)
    if len(parts) > 1:
        regions = [as_region(read_one(part)) for part in parts]
        if None in regions:
            raise Unreadable("a union of what are not intervals")
        return united([region for region in regions if region is not None])
    if at_top_level(text, COMPARED):
        return read_relation(text)
    excepted = split_top_level(text, MINUS_SET)
    if len(excepted) == 2:
        region, points = as_region(read_one(excepted[0])), read_one(excepted[1])
        if region is None or not isinstance(points, Braced):
            raise Unreadable("a difference of what are not sets of numbers")
        return without(region, points)
    matrix = MATRIX.fullmatch(text)
    if matrix:
        return read_matrix(matrix[1], matrix[2])
    inside = bracketed(text)
    if inside is not None:
        form = read_brackets(*inside)
        if form is not None:
            return form
    return read_leaf(text)


def read_brackets(left: str, right: str, inside: str) -> Form | None:
    items = split_top_level(inside, re.compile(r" ?[,;] ?"))
    if left == r"\{":
        if right != r"\}":
            raise Unreadable("brackets that do not fit")
        return Braced(tuple(read_alternatives(item) for item in items) if inside.strip() else ())
    if len(items) == 1:
        if left + right in ("()", "[]"):
            return read(inside.strip()) if at_top_level(inside, SEPARATOR) or at_top_level(inside, COMPARED) else None
        raise Unreadable("brackets that do not fit")
    if len(items) > MAX_PARTS or ((left, right) in (("(", "]"), ("[", ")")) and len(items) != 2):
        raise Unreadable("brackets that do not fit")
    if left == r"\langle":
        left, right = "(", ")"
    return Bracketed(left, right, tuple(read_end(item) for item in items))


def read_end(text: str) -> Form:
    return infinite(text) or read_one(text)


def infinite(text: str) -> Quantity | None:
    match = INFINITE.fullmatch(text)
    return match and Quantity(MINUS_INFINITY if match[1] == "-" else INFINITY, None)


def read_matrix(kind: str, body: str) -> Form:
    if kind == "vmatrix":
        raise Unreadable("a determinant is not worked out")
    rows = [row for row in re.split(r"\\\\|\\cr", body.strip().removesuffix(r"\\")) if row.strip()]
    read_rows = tuple(tuple(read_one(entry.strip()) for entry in row.replace(r"\hline", "").split("&")) for row in rows)
    if not rows or len({len(row) for row in read_rows}) != 1:
        raise Unreadable("the rows of the matrix differ in length")
    return Matrix(read_rows)


def read_relation(text: str) -> Form:
    sides = split_top_level(text, COMPARED)
    kinds = [SPELLED.get(found.strip(), found.strip()) for found in at_top_level(text, COMPARED)]
    if not sides[0] and kinds == ["="]:
        return read_one(sides[1])  # "\\approx 3.14"
    if not all(sides):
        raise Unreadable("a comparison without a side")
    if set(kinds) == {"="}:
        return read_equation(sides)
    if kinds == [r"\in"]:
        region = as_region(read_one(sides[1]))
        if region is None or not NAME.fullmatch(sides[0]):
            raise Unreadable("an element of what is no set of numbers")
        return Region(region.pieces, sides[0])
    return read_inequality(sides, kinds)


def read_equation(sides: list[str]) -> Form:
    first, last = sides[0], sides[-1]
    if len(sides) == 2 and is_name(last) and not is_name(first):
        first, last = last, first
    if LABEL.fullmatch(first) and DENIED.search(first):
        raise Unreadable("an equation that is denied, or one of several")
    if is_name(first) or NAMES.fullmatch(first) or LABEL.fullmatch(first):
        value = read_alternatives(last)
        for between in sides[1:-1]:
            check_chain(between, value)
        name = "" if LABEL.fullmatch(first) and not is_name(first) else first.replace(" ", "")
        if isinstance(value, Quantity) and name in symbols_of(value.tree):
            return Relation("=", difference(first, last))
        return Named(name, value) if name and not NAMES.fullmatch(first) else value
    trees = [parse(split_unit(side)[0]) for side in sides]
    if not any(symbols_of(tree) for tree in trees):
        if read_number(first) and not read_number(split_unit(last)[0]):
            sides = sides[::-1]  # 56 = 7 \\times 8
        value = read_one(sides[-1])
        for side in sides[:-1]:
            check_chain(side, value)
        return value
    if len(sides) > 2:
        raise Unreadable("a chain of equations")
    return Relation("=", difference(first, last))


def check_chain(side: str, value: Form) -> None:
    """Raises Unreadable for x = 4 = 5."""
    tree = parse(split_unit(side)[0])
    if symbols_of(tree):
        return
    if not isinstance(value, Quantity) or symbols_of(value.tree):
        raise Unreadable("a chain of equations")
    plain = value.number is not None and value.number.places is not None
    try:
        wrong = not plain and not same_value(tree, value.tree)
    except (TooBig, Undefined):
        wrong = True
    if wrong or (plain and (read_number(side) or value.number) != value.number):
        raise Unreadable("a chain of equations that does not hold")


def read_inequality(sides: list[str], kinds: list[str]) -> Form:
    if kinds[0] in TURNED and all(kind in TURNED for kind in kinds):
        sides, kinds = sides[::-1], [TURNED[kind] for kind in kinds[::-1]]
    if not all(kind in ("<", r"\le") for kind in kinds) and kinds != [r"\ne"]:
        raise Unreadable("comparisons of several kinds")
    ends = [read_end(side) for side in sides]
    trees = [end.tree for end in ends if isinstance(end, Quantity)]
    if len(trees) < len(ends) or len(trees) > 3:
        raise Unreadable("a comparison of what are not numbers")
    names = [is_name(side) for side in sides]
    constant = [not symbols_of(tree) for tree in trees]
    if len(trees) == 3:
        if not (constant[0] and names[1] and constant[2]):
            raise Unreadable("a chain of comparisons")
        piece = Piece(trees[0], trees[2], kinds[0] == r"\le", kinds[1] == r"\le")
        return Region((piece,), sides[1])
    if all(constant):
        raise Unreadable("a comparison of two numbers")
    closed = kinds[0] == r"\le"
    if names[0] and constant[1]:
        below = Piece(MINUS_INFINITY, trees[1], False, closed)
        above = Piece(trees[1], INFINITY, False, False)
        return Region((below, above) if kinds[0] == r"\ne" else (below,), sides[0])
    if names[1] and constant[0] and kinds[0] != r"\ne":
        return Region((Piece(trees[0], INFINITY, closed, False),), sides[1])
    return Relation(kinds[0], difference(*sides))


def difference(left: str, right: str) -> Node:
    return ("+", parse(left), ("-", parse(right)))


def is_name(text: str) -> bool:
    """A letter, letters that name a segment or f(x); not a constant."""
    return bool(NAME.fullmatch(text)) and text not in ("e", "i", r"\pi", "pi", r"\infty", "infinity")


def read_leaf(text: str) -> Form:
    based = BASED.fullmatch(text.replace(" ", ""))
    if based:
        return Based(based["digits"].lstrip("0").upper() or "0", number_word(based["base"] or based["base2"]))
    clock = CLOCK.fullmatch(text) or RATIO_WORDS.fullmatch(text)
    if clock:
        groups = [*clock.groups(), None, None][:4]
        return Clock(tuple(part for part in groups[:3] if part), (groups[3] or "").lower())
    endless = infinite(text)
    if endless is not None:
        return endless
    if text.replace(" ", "") in (r"\mathbb{R}", r"\Re"):
        return REALS
    if text.strip() in (r"\emptyset", r"\{\}"):
        return Braced(())
    return read_quantity(text)


def read_quantity(text: str) -> Quantity:
    rest, unit = split_unit(text)
    residue = re.fullmatch(r"(.*?) ?(?:\\pmod ?\{?|\(? ?\\mod ?|\(? ?\\text\{ ?mod ?\} ?|\(mod )(\d+)\}?\)?", rest)
    if residue:
        rest, unit = residue[1], Unit(label=frozenset({f"mod{residue[2]}"}))
    scaled = re.fullmatch(r"(.*?\d) ?(?:\\text\{ ?)?(hundred|thousand|million|billion|trillion)(?: ?\})?", rest)
    if scaled:
        rest = f"{scaled[1]} \\times 10^{{{POWERS_OF_TEN[scaled[2]]}}}"
    number = read_number(rest)
    if number is not None:
        return Quantity(("number", number.value), number, unit, text)
    percent = re.fullmatch(r"(.*?) ?\\?%", rest)
    if percent:
        return Quantity(("/", parse(percent[1]), ("number", 100)), None, unit, text)
    return Quantity(parse(rest), None, unit, text)
