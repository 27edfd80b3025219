r"""The unit behind a number: which kind of quantity it is, and how many of the basic unit it stands for.

    "5\text{ km/h}"  ->  "5", Unit({"length": 1, "time": -1}, 1000/3600)        "12 red apples"  ->  "12", label

One side may leave its unit out. Where both have one, the quantities are compared: 500 cm is 5 m, 5 km/h is not 5 m/s.
Words that name no unit known here are a label ("12 apples"); two labels agree when they share a word.
"""

import re
from dataclasses import dataclass, field
from fractions import Fraction

MAX_LABEL_WORDS = 4
PREFIX = {"k": 1000, "c": Fraction(1, 100), "m": Fraction(1, 1000), "d": Fraction(1, 10)}
MICRO = Fraction(1, 10**6)
KNOWN: dict[str, tuple[str, Fraction]] = {}


def define(dimension: str, factor: Fraction | int, *names: str) -> None:
    for name in names:
        KNOWN[name] = (dimension, Fraction(factor))


for prefix, word, factor in (
    ("", "", Fraction(1)), ("k", "kilo", PREFIX["k"]), ("c", "centi", PREFIX["c"]), ("m", "milli", PREFIX["m"]),
    ("d", "deci", PREFIX["d"]),
):  # fmt: skip
    define("length", factor, f"{prefix}m", f"{word}meter", f"{word}metre")
    define("mass", factor, f"{prefix}g", f"{word}gram", f"{word}gramme")
    define("volume", factor, f"{prefix}l", f"{word}liter", f"{word}litre")
define("length", MICRO, "micrometer", "micron")
define("length", Fraction(254, 10000), "in", "inch", "inche")
define("length", Fraction(3048, 10000), "ft", "foot", "feet")
define("length", Fraction(9144, 10000), "yd", "yard")
define("length", Fraction(1609344, 1000), "mi", "mile")
define("mass", Fraction(45359237, 100000), "lb", "pound")
define("mass", Fraction(45359237, 1600000), "oz", "ounce")
define("mass", 10**6, "tonne")
define("time", 1, "s", "sec", "second")
define("time", 60, "min", "minute")
define("time", 3600, "h", "hr", "hour")
define("time", 86400, "day")
define("time", 604800, "week")
define("month", 1, "month")
define("month", 12, "yr", "year")
define("money", 1, "$", "dollar", "buck", "usd")
define("money", Fraction(1, 100), "cent", "¢")
define("euro", 1, "€", "euro")
define("sterling", 1, "£")
define("angle", 1, "°", "deg", "degree")
define("radian", 1, "rad", "radian")
define("celsius", 1, "°c", "celsius")
define("fahrenheit", 1, "°f", "fahrenheit")
SPEEDS = {"mph": "mile/hour", "kph": "km/hour", "kmh": "km/hour", "kmph": "km/hour"}

NO_UNIT_WORDS = """
    or and not nor no to than is isn are was be equals equal plus minus times divided over mod base pi sqrt
    root sin cos tan log ln exp factorial choose infinity e i x y z if else true false wrong incorrect never
    neither either between least most except but maybe possibly any all every some none pick anything whatever
    unknown answer correct right thousand million billion trillion hundred squared power am pm a.m p.m mixed
    half third quarter in_base
    two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
    nineteen twenty thirty forty fifty sixty seventy eighty ninety negative cubed modulo
    unless versus vs through until otherwise alternatively perhaps likely roughly approximately around instead rather
    isnt nope wait actually
""".split()  # noqa: SIM905
NO_UNIT = frozenset(NO_UNIT_WORDS)
PARTS = re.compile(  # 5 sixths is no 5; 5 sixth graders are
    r"(?:halve|fifth|sixth|seventh|eighth|ninth|tenth|twelfth|\w*teenth|twentieth|fourth|\w+(?:red|sand|lion)th)s?\.?",
    re.ASCII,
)
SYMBOL_BEFORE = re.compile(r"(-?) ?(\\?\$|£|€) ?")
TEXT_BEHIND = re.compile(
    r"(?P<rest>.*?[\w)}\]%]|.*?\^\\circ) ?"
    r"(?P<unit>\\text\{[^{}]*\}(?: ?(?:/|\\cdot)? ?\\text\{[^{}]*\}| ?\^ ?\{?-?\d\}?)*)",
    re.ASCII,
)
WORDS_BEHIND = re.compile(
    r"(?P<rest>[-+]?(?:\\?\$)?(?:\d[\d.]*(?: ?/ ?\d+| \d+/\d+)?|\.\d+|\d*\\frac\{\d+\}\{\d+\}"
    r"|[\d.]+ ?\\times 10\^\{?-?\d+\}?))"
    r"(?P<unit> ?(?:[a-zA-Z]{2,}\.?|(?<= )[a-zA-Z]|[a-zA-Z](?= ?/))(?:[ /]|\^ ?\{?-?\d\}?|[a-zA-Z]\.?|-(?=[a-zA-Z]))*)",
    re.ASCII,
)
DEGREES_BEHIND = re.compile(r"(?P<rest>.*)\^\\circ ?(?:\\text\{ ?(?P<scale>[CF]) ?\}|(?P<bare>[CF]))?")
ANGLE_OF = re.compile(r"sin|cos|tan|cot|sec|csc")  # there a degree is a number
LABEL_WORD = re.compile(r"[a-z][a-z'-]*[a-z]\.?")
PIECE = re.compile(r"([a-z$¢°€£.'-]+?)\.?(?:\^ ?\{?(-?\d)\}?|([23])(?![\d]))?", re.ASCII)


@dataclass(frozen=True)
class Unit:
    """`powers`: exponent of each dimension. `label`: words that name no known unit; then powers are empty."""

    powers: dict[str, int] = field(default_factory=dict)
    factor: Fraction = Fraction(1)
    label: frozenset[str] = frozenset()


def split_unit(text: str) -> tuple[str, Unit | None]:
    """The expression and its unit; the text itself and None where nothing behind the number is a unit."""
    before = SYMBOL_BEFORE.match(text)
    if before:
        symbol = before.group(2).lstrip("\\")
        rest, behind = split_behind(before.group(1) + text[before.end() :])
        money = read_unit(symbol)
        return (rest, money) if behind is None or behind == money else (text, None)
    return split_behind(text)


def split_behind(text: str) -> tuple[str, Unit | None]:
    degrees = DEGREES_BEHIND.fullmatch(text)
    if degrees and not ANGLE_OF.search(text):
        scale = degrees["scale"] or degrees["bare"] or ""
        return degrees["rest"], read_unit("°" + scale)
    for pattern in (TEXT_BEHIND, WORDS_BEHIND):
        found = pattern.fullmatch(text)
        unit = found and read_unit(re.sub(r"\\text\{([^{}]*)\}", r" \1 ", found["unit"]))
        if found and unit:
            return found["rest"].rstrip(), unit
    return text, None


def read_unit(text: str) -> Unit | None:
    """None where the words are no unit."""
    text = " ".join(text.replace("\\cdot", " ").lower().split())
    text = re.sub(r" \^", "^", re.sub(r"\bper\b", "/", text))
    text = re.sub(r"\b(?:square|sq)\b\.? ?([a-z]+)", r"\1^2", text)
    text = re.sub(r"\bcubic ?([a-z]+)", r"\1^3", text)
    text = re.sub(r"([a-z]+) (?:squared)\b", r"\1^2", text)
    text = re.sub(r"([a-z]+) (?:cubed)\b", r"\1^3", text)
    for name, written in SPEEDS.items():
        text = re.sub(rf"\b{name}\b", written, text)
    parts = [part.split() for part in text.split("/")]
    words = [word for part in parts for word in part if word.strip(".")]
    if not words or len(words) > MAX_LABEL_WORDS or any(map(is_no_unit, words)) or PARTS.fullmatch(words[-1]):
        return None
    powers: dict[str, int] = {}
    factor = Fraction(1)
    for sign, part in zip((1, *[-1] * len(parts)), parts, strict=False):
        for word in part:
            known = known_power(word)
            if known is None:
                if not all(LABEL_WORD.fullmatch(word) for word in words):
                    return None  # algebra
                return Unit(label=frozenset(singular(word.strip(".")) for word in words))
            dimension, size, power = known
            powers[dimension] = powers.get(dimension, 0) + sign * power
            factor *= size ** (sign * power)
    return Unit({name: power for name, power in powers.items() if power}, factor)


def is_no_unit(word: str) -> bool:
    word = word.strip(".")
    return word in NO_UNIT or singular(word) in NO_UNIT


def known_power(word: str) -> tuple[str, Fraction, int] | None:
    match = PIECE.fullmatch(word)
    if match is None:
        return None
    known = KNOWN.get(match[1]) or KNOWN.get(singular(match[1]))
    if known is None:
        return None
    return *known, int(match[2] or match[3] or 1)


def singular(word: str) -> str:
    return word[:-1] if len(word) > 2 and word.endswith("s") and not word.endswith("ss") else word


def scales(answer: Unit | None, reference: Unit | None) -> tuple[Fraction, Fraction] | None:
    """What to multiply both numbers with before they are compared, or None where the units cannot be compared."""
    if answer is None or reference is None:
        return Fraction(1), Fraction(1)
    if answer.label and reference.label:
        return (Fraction(1), Fraction(1)) if answer.label & reference.label else None
    if answer.label or reference.label or answer.powers != reference.powers:
        return None
    return answer.factor, reference.factor
