r"""The language of answers: LaTeX or plain text of one expression becomes a tree, and nothing is ever executed.

    "\frac{x+1}{2}"  ->  ("/", ("+", ("symbol", "x"), ("number", 1)), ("number", 2))

Nodes   ("number", Fraction)   ("constant", "pi" | "e" | "i" | "infinity")   ("symbol", name)   ("+" | "*", node, ...)
        ("/" | "^", node, node)   ("-", node)   ("call", function, node, ...)   ("degrees", node)
What is not in the language - an unknown command, two numbers side by side, a second sign, a sum not worked out -
raises `Unreadable`: such an answer equals only the same text. Written by recursive descent and not with math-verify's
parser because that one guesses: it drops what it does not know and evaluates Python where LaTeX fails.
"""

import re
from fractions import Fraction

MAX_NODES = 400
MAX_DEPTH = 40

GREEK = (
    "alpha|beta|gamma|delta|epsilon|varepsilon|zeta|eta|theta|vartheta|iota|kappa|lambda|mu|nu|xi|rho|sigma|tau|upsilon"
    "|phi|varphi|chi|psi|omega|Gamma|Delta|Theta|Lambda|Xi|Sigma|Phi|Psi|Omega|ell|hbar"
)
CIRCULAR = ("sin", "cos", "tan", "cot", "sec", "csc")
FUNCTIONS = frozenset(
    {*CIRCULAR, *(f"arc{name}" for name in CIRCULAR), *("sinh", "cosh", "tanh", "log", "ln", "lg", "exp")}
    | {"gcd", "lcm", "max", "min"}
)
INVERSE = {name: f"arc{name}" for name in CIRCULAR}
ALIASES = {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "abs": "abs"}
TOKEN = re.compile(
    r"(?P<space>\s+)"
    r"|(?P<number>(?:\d+\.\d*|\.\d+|\d+)(?:\\(?:overline|bar|dot) ?\{\d+\})?(?:[eE][-+]?\d+(?![\d.]))?)"
    r"|(?P<command>\\[a-zA-Z]+|\\[{}%$])"
    r"|(?P<word>sqrt|arcsin|arccos|arctan|asin|acos|atan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|exp|pi|abs"
    r"|infinity|infty|gcd|lcm|theta|alpha|beta)"
    r"|(?P<letter>[a-zA-Z])"
    r"|(?P<sign>\*\*|[-+*/^_(){}\[\]|!,])",
    re.ASCII,
)
SUBSCRIPT = re.compile(r"\{ ?([a-zA-Z0-9]{1,8}) ?\}|([a-zA-Z0-9])", re.ASCII)
CLOSING = {"(": ")", "[": "]", "{": "}", "|": "|", r"\lfloor": r"\rfloor", r"\lceil": r"\rceil", r"\{": r"\}"}
BRACKET_CALLS = {"|": "abs", r"\lfloor": "floor", r"\lceil": "ceil"}
TIMES = frozenset({"*", r"\cdot", r"\times"})

Node = tuple


class Unreadable(ValueError):
    """The text is not in the language of answers; the message says where."""


def parse(text: str) -> Node:
    """The tree of a tidy expression. Raises Unreadable."""
    parser = Parser(tokens_of(text))
    tree = parser.sum()
    if parser.token is not None:
        raise Unreadable(f"{parser.token} is not expected here")
    return tree


def tokens_of(text: str) -> list[str]:
    tokens, position = [], 0
    spaced = False
    while position < len(text):
        match = TOKEN.match(text, position)
        if match is None:
            raise Unreadable(f"{text[position]!r} is no part of an expression")
        position = match.end()
        if match.lastgroup == "space":
            spaced = True
            continue
        token = match.group()
        if spaced and tokens and match.lastgroup == "number" and tokens[-1][0].isdigit() and tokens[-2:-1] != ["_"]:
            tokens.append("mixed")  # "1 1/2": only a mixed number may follow
        spaced = False
        if match.lastgroup == "word":
            token = "\\" + ALIASES.get(token, {"infinity": "infty"}.get(token, token))
        tokens.append(token)
        if token == "_":
            match = SUBSCRIPT.match(text, position)
            if match is None:
                raise Unreadable("a subscript is a letter, a number or a word in braces")
            tokens.append(match.group(1) or match.group(2))
            position = match.end()
    return tokens


class Parser:
    """One expression. Lowest to highest: sum, product, signed, power, atom."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._at = 0
        self._nodes = 0
        self._depth = 0
        self._bars = 0  # |...| open now

    @property
    def token(self) -> str | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def next(self) -> str:
        token = self.token
        if token is None:
            raise Unreadable("the expression ends too early")
        self._at += 1
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise Unreadable(f"the expression has more than {MAX_NODES} parts")
        return token

    def expect(self, token: str) -> None:
        if self.next() != token:
            raise Unreadable(f"{token} is expected")

    def sum(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Unreadable(f"the expression nests deeper than {MAX_DEPTH}")
        sign = self.next() if self.token in ("+", "-") else "+"
        terms = [negative(self.product(), sign)]
        while self.token in ("+", "-"):
            sign = self.next()
            terms.append(negative(self.product(), sign))
        self._depth -= 1
        return terms[0] if len(terms) == 1 else ("+", *terms)

    def product(self) -> Node:
        value = self.power()
        while self.token is not None:
            token = self.token
            if token in TIMES:
                self.next()
                value = times(value, self.factor())
            elif token in ("/", r"\div"):
                self.next()
                value = ("/", value, self.factor())
            elif self.starts_atom(token):
                # 5 3 and 5.2.1 are no products; 2(3) and 2\sqrt3 are
                if token[0] in "0123456789.":
                    raise Unreadable("two numbers stand side by side")
                value = times(value, self.power())
            else:
                break
        return value

    def factor(self) -> Node:
        """After an operator a sign may stand: 3 \\cdot -2."""
        if self.token == "-":
            self.next()
            return ("-", self.power())
        return self.power()

    def starts_atom(self, token: str) -> bool:
        if token == "|":
            return self._bars == 0
        return token not in (
            "+",
            "-",
            ",",
            ")",
            "]",
            "}",
            r"\}",
            "^",
            "**",
            "!",
            "_",
            r"\rfloor",
            r"\rceil",
            "mixed",
            r"\%",
        )

    def power(self) -> Node:
        value = self.atom()
        before = ""
        while self.token in ("^", "**", "!"):
            before, last = self.next(), before
            if last and (last == "!") == (before == "!"):
                raise Unreadable("a tower of powers or a double factorial")
            if before == "!":
                value = ("call", "factorial", value)
            elif self.token == r"\circ":
                self.next()
                value = ("degrees", value)
            else:
                value = ("^", value, self.argument())
        return value

    def argument(self) -> Node:
        """What a macro or ^ takes: a group in braces, or one token; x^23 is read as plain text has it."""
        token = self.token
        if token == "{":
            return self.group()
        if token == "-":
            self.next()
            return ("-", self.atom())
        if token == "(" or (token and (token[0] in "0123456789.\\" or token.isalpha())):
            return self.atom()
        raise Unreadable("an argument is expected")

    def digit_or_group(self) -> Node:
        token = self.token
        if token and token.isdigit() and len(token) > 1:  # \frac12: one digit each
            self._tokens[self._at] = token[1:]
            return ("number", Fraction(int(token[0])))
        return self.argument()

    def group(self) -> Node:
        opening = self.next()
        value = self.sum()
        self.expect(CLOSING[opening])
        return value

    def atom(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Unreadable(f"the expression nests deeper than {MAX_DEPTH}")
        value = self.atom_of(self.next())
        self._depth -= 1
        return value

    def atom_of(self, token: str) -> Node:
        if token[0] in "0123456789.":
            return self.number(token)
        if token in ("(", "[", "{"):
            self._at -= 1
            return self.group()
        if token in BRACKET_CALLS:
            self._bars += token == "|"
            value = self.sum()
            self.expect(CLOSING[token])
            self._bars -= token == "|"
            return ("call", BRACKET_CALLS[token], value)
        if token.isalpha():
            return self.named(token)
        if token.startswith("\\"):
            return self.command(token[1:])
        raise Unreadable(f"{token} is not expected here")

    def number(self, token: str) -> Node:
        value = literal(token)
        if token.isdigit() and self.token == "mixed":
            self.next()
            over = self.next()
            self.expect("/")
            under = self.next()
            if not (over.isdigit() and under.isdigit() and 0 < int(over) < int(under)):
                raise Unreadable("two numbers stand side by side")
            return ("number", value + Fraction(int(over), int(under)))
        if token.isdigit() and self.token == r"\frac":
            part = self.atom()
            if part[0] == "/" and part[1][0] == part[2][0] == "number":
                over, under = part[1][1], part[2][1]
                if not 0 < over < under or under.denominator > 1:
                    raise Unreadable("a whole number before a fraction above 1 may be a product or a sum")
                return ("number", value + over / under)
            return ("*", ("number", value), part)
        return ("number", value)

    def named(self, name: str) -> Node:
        if self.token == "_":
            self.next()
            return ("symbol", f"{name}_{self.next()}")
        if name in ("e", "i"):
            return ("constant", name)
        return ("symbol", name)

    def command(self, name: str) -> Node:
        if name == "frac":
            over = self.digit_or_group()
            return ("/", over, self.digit_or_group())
        if name == "sqrt":
            return self.root()
        if name in ("binom", "tbinom", "dbinom"):
            above = self.digit_or_group()
            return ("call", "binomial", above, self.digit_or_group())
        if name == "pi":
            return ("constant", "pi")
        if name == "infty":
            return ("constant", "infinity")
        if name in ("log", "ln", "lg") or name in FUNCTIONS or name == "abs":
            return self.function(name)
        if name in GREEK.split("|"):
            return self.named("\\" + name)
        if name in ("text", "operatorname") and self.token == "{":
            word = "".join(self.spelled())
            if word in ("e", "i", "d"):
                return self.named(word)
            if word in FUNCTIONS:
                return self.function(word)
        raise Unreadable(f"\\{name} is no part of an expression")

    def spelled(self) -> list[str]:
        self.expect("{")
        letters = []
        while self.token != "}":
            letters.append(self.next().lstrip("\\"))
        self.next()
        return letters

    def root(self) -> Node:
        if self.token == "[":
            degree = self.group()
            return ("call", "root", self.digit_or_group(), degree)
        return ("call", "root", self.digit_or_group(), ("number", Fraction(2)))

    def function(self, name: str) -> Node:
        base, power = None, None
        while self.token in ("_", "^", "**"):
            if self.next() == "_":
                if name != "log":
                    raise Unreadable(f"\\{name} has no base")
                base = subscript_number(self.next())
            else:
                power = self.argument()
        if power == ("-", ("number", Fraction(1))) and name in INVERSE:
            name, power = INVERSE[name], None
        arguments = self.call_arguments(name)
        if base is not None:
            value: Node = ("call", "log", arguments[0], base)
        elif name == "exp":
            value = ("^", ("constant", "e"), arguments[0])
        else:
            value = ("call", name, *arguments)
        return value if power is None else ("^", value, power)

    def call_arguments(self, name: str) -> list[Node]:
        if self.token == "(":
            self.next()
            arguments = [self.sum()]
            while self.token == "," and name in ("gcd", "lcm", "max", "min"):
                self.next()
                arguments.append(self.sum())
            self.expect(")")
            return arguments
        if self.token in ("{", "["):
            return [self.group()]
        # \sin 2x \cos y: the argument ends before the next function or operator
        value = self.factor()
        while (
            self.token is not None
            and self.starts_atom(self.token)
            and self.token not in TIMES | {"/", r"\div", "("}
            and self.token[1:] not in FUNCTIONS
            and self.token[0] not in "0123456789."
        ):
            value = times(value, self.power())
        return [value]


def times(left: Node, right: Node) -> Node:
    return (*left, right) if left[0] == "*" else ("*", left, right)


def negative(node: Node, sign: str) -> Node:
    return ("-", node) if sign == "-" else node


def literal(token: str) -> Fraction:
    match = re.fullmatch(r"(\d*)\.?(\d*)(?:\\\w+ ?\{(\d+)\})?(?:[eE]([-+]?\d+))?", token, re.ASCII)
    if match is None:
        raise Unreadable(f"{token} is no number")
    whole, part, repeated, power = match.groups()
    if power and abs(int(power)) > 1000:
        raise Unreadable(f"{token} is too long a number")
    value = Fraction(int((whole + part) or 0), 10 ** len(part))
    if repeated:
        value += Fraction(int(repeated), (10 ** len(repeated) - 1) * 10 ** len(part))
    return value * Fraction(10) ** int(power or 0)


def subscript_number(token: str) -> Node:
    if token.isdigit():
        return ("number", Fraction(int(token)))
    return ("constant", "e") if token == "e" else ("symbol", token)
