r"""Answers that nobody would write: LaTeX from a grammar whose value is known, nested and huge forms, splices, garbage.

    MathFuzz(random) --> case() --> FuzzCase(request, wrong, sound)

`wrong` is True where the response states a value that is not the reference's, by exact arithmetic done here; `sound` is
False where the reference is garbage, too.
"""

import random
from dataclasses import dataclass
from fractions import Fraction

from reward.messages import VerifyRequest
from tests.reward.attacks.math_cases import CASES

PIECES = (
    *(
        r"\frac{1}{2}",
        r"\sqrt{2}",
        r"\pi",
        r"\infty",
        r"\left(",
        r"\right)",
        r"\boxed{",
        r"\fbox{",
        r"\text{",
        r"\mathrm{",
    ),
    *(
        r"\begin{pmatrix}",
        r"\end{pmatrix}",
        "&",
        r"\\",
        "^",
        "^{",
        "_",
        "}",
        "{",
        "(",
        ")",
        "[",
        "]",
        "|",
        "$",
        "$$",
        r"\(",
    ),
    *(
        r"\)",
        r"\[",
        r"\]",
        r"\sum_{i=1}^{100}",
        r"\int_0^1",
        r"\lim_{x \to 0}",
        r"\prod",
        r"\binom{1000000}{500000}",
        "!",
    ),
    *(
        "!!",
        "9^9^9^9",
        "10^{10^{10}}",
        "1e999999",
        "1e-999999",
        "0/0",
        "1/0",
        "x",
        "i",
        "e",
        "y^2",
        r"\cup",
        r"\in",
        r"\pm",
    ),
    *(
        r"\{1,2,3\}",
        "(1,2)",
        "[0,1)",
        "50%",
        r"50\%",
        "1,000",
        r"1\,000",
        "1.000,5",
        "7.",
        "-",
        "+",
        "*",
        "/",
        "=",
        "<",
        r"\le",
    ),
    *(
        "####",
        "answer is",
        "The answer is",
        "Answer:",
        "</think>",
        "<think>",
        "**",
        "`",
        "\n",
        "\n\n",
        " ",
        ".",
        ",",
        ";",
        ":",
    ),
    *(
        "sqrt(4)",
        "2**3",
        "2**2**2**2**2",
        "lambda: 0",
        "__import__('os').system('true')",
        "exec",
        "oo",
        "nan",
        "I",
        "E",
        "S",
    ),
    *(
        "A",
        "B",
        "(A)",
        "True",
        "None",
        r"\operatorname{det}",
        r"\sin",
        r"\log_2",
        r"\arctan",
        "°",
        "\u221a",
        "\u03c0",
        "\u00bd",
    ),
    *("\uff11", "\u0661", "\u00b2", "\0", "\ufeff", "\u202e", "\ud800", "\r", "\x1b", "🐍", "9" * 80, "0." + "3" * 60),
    *("(" * 40, "{" * 40, "-" * 40, r"\frac" * 20, r"\sqrt{" * 20, "x^" * 20, "1+" * 60),
)
DISTRACTIONS = (
    "",
    "Let me think. ",
    "<think>maybe 3</think>",
    r"First \boxed{",
    "**",
    "The answer is $5$? No. ",
    "#### ",
)
RELATIVE_DIFFERENCE = Fraction(1, 10**4)  # farther than any tolerance on decimals that a verifier states


@dataclass(frozen=True, kw_only=True)
class FuzzCase:
    request: VerifyRequest
    wrong: bool
    mates: tuple[VerifyRequest, ...] = ()
    sound: bool = True


@dataclass(frozen=True)
class Known:
    text: str
    value: Fraction


class MathFuzz:
    """Cases without end, drawn from one source of chance."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def case(self) -> FuzzCase:
        kind = self._chance.choice(
            (self._known, self._known, self._echo, self._near, self._noise, self._spliced, self._attack)
        )
        response, reference, wrong = kind()
        request = VerifyRequest(id=kind.__name__, verifier="math", response=response, reference={"answer": reference})
        return FuzzCase(request=request, wrong=wrong, sound=kind != self._noise)

    def _known(self) -> tuple[str, str, bool]:
        """Two expressions of known value."""
        said, reference = self._expression(3), self._expression(self._chance.randint(0, 2))
        return f"So it is \\boxed{{{said.text}}}.", reference.text, far(said.value, reference.value)

    def _echo(self) -> tuple[str, str, bool]:
        """A calculation that has the value of the number asked for, and is none."""
        left, right = self._expression(self._chance.randint(0, 1)), self._expression(0)
        sign, value = self._chance.choice(
            (
                ("+", left.value + right.value),
                ("-", left.value - right.value),
                (r"\cdot", left.value * right.value),
                ("*", left.value * right.value),
            )
        )
        named = self._chance.choice(("", "x = ", r"\text{total} = "))
        return f"\\boxed{{{named}{left.text} {sign} {right.text}}}", fraction_text(value), True

    def _near(self) -> tuple[str, str, bool]:
        """A number and a neighbour of it: a digit more, another sign, a power of ten, the reciprocal."""
        value = Fraction(self._chance.randint(-(10**6), 10**6), self._chance.choice((1, 1, 2, 3, 7, 100, 2**40)))
        other = self._chance.choice(
            (
                lambda: -value,
                lambda: value + 1,
                lambda: value * 10,
                lambda: value / 10,
                lambda: value * value,
                lambda: 1 / value if value else Fraction(1),
                lambda: value * Fraction(10) ** self._chance.randint(-30, 30),
                lambda: value,
            )
        )()
        written = self._chance.choice(
            ("\\boxed{{{}}}", "#### {}", "The answer is ${}$", "\\fbox{{{}}}", "$$\\boxed{{{}}}$$")
        )
        return written.format(fraction_text(other)), fraction_text(value), far(other, value)

    def _noise(self) -> tuple[str, str, bool]:
        return self._garbage(), self._garbage() or "1", False

    def _spliced(self) -> tuple[str, str, bool]:
        """A known wrong number as the last box, after anything at all that closes its braces."""
        value = self._chance.randint(-1000, 1000)
        before = self._chance.choice(DISTRACTIONS) + self._garbage().replace("\\boxed", "").replace("<think>", "")
        return f"{before}\n</think>\\boxed{{{value + self._chance.randint(1, 99)}}}", str(value), True

    def _attack(self) -> tuple[str, str, bool]:
        """A known attack with pieces lost and found."""
        _, reference, response = self._chance.choice(CASES)
        for _ in range(self._chance.randint(1, 4)):
            start, end = sorted(self._chance.randrange(len(response) + 1) for _ in range(2))
            lost = self._chance.random() < 0.5 and end - start < 30
            response = response[:start] + self._chance.choice(PIECES) + response[end if lost else start :]
        return response, reference, False

    def _garbage(self) -> str:
        pieces = [self._chance.choice(PIECES) for _ in range(self._chance.choice((1, 3, 8, 30, 200)))]
        text = self._chance.choice(("", " ")).join(pieces)
        return f"\\boxed{{{text}}}" if self._chance.random() < 0.5 else text

    def _expression(self, depth: int) -> Known:
        chance = self._chance
        if depth == 0:
            number = chance.choice((chance.randint(0, 12), chance.randint(0, 10**6), chance.randint(1, 10**15)))
            return Known(str(number), Fraction(number))
        left, right = self._expression(depth - 1), self._expression(depth - 1)
        power = chance.randint(0, 3)
        choices = [
            Known(f"({left.text} + {right.text})", left.value + right.value),
            Known(f"({left.text} - {right.text})", left.value - right.value),
            Known(f"({left.text} \\cdot {right.text})", left.value * right.value),
            Known(f"({left.text}) \\times ({right.text})", left.value * right.value),
            Known(f"-({left.text})", -left.value),
            Known(f"\\left( {left.text} \\right)", left.value),
            Known(f"\\sqrt{{({left.text})^2}}", abs(left.value)),
        ]
        if right.value:
            choices.append(Known(f"\\frac{{{left.text}}}{{{right.text}}}", left.value / right.value))
            choices.append(Known(f"\\dfrac{{{left.text}}}{{{right.text}}}", left.value / right.value))
        if left.value and left.value.denominator < 10**6 and abs(left.value.numerator) < 10**6:
            choices.append(Known(f"({left.text})^{{{power}}}", left.value**power))
        return chance.choice(choices)


def fraction_text(value: Fraction) -> str:
    if value.denominator == 1:
        return str(value.numerator)
    sign = "-" if value < 0 else ""
    return f"{sign}\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


def far(left: Fraction, right: Fraction) -> bool:
    return abs(left - right) > RELATIVE_DIFFERENCE * max(abs(left), abs(right))
