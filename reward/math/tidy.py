r"""One spelling for what many spellings mean, so that equal answers are mostly equal texts.

`1\,000` is 1000, `7.` is 7, a full-width digit is a digit, `\dfrac` is `\frac`, and a unit after a number is left out.
"""

import re
import unicodedata

DROPPED = re.compile(r"\\(?:left|right)(?![a-zA-Z])|\\displaystyle|(?<!\\)\\[!;:>, ]|\\quad|\\qquad|~|\\limits")
FRACTIONS = re.compile(r"\\[dtc]frac")
BARE_FRACTION = re.compile(r"\\frac\s*(\d)\s*(\d)")
TEXT = re.compile(r"\\(?:text|mbox|textrm|textbf|mathrm|mathbf|textit|operatorname)\s*\{([^{}]*)\}")
DEGREES = re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ)|\\degree|°")
THOUSANDS = re.compile(r"(?<![\d.])(\d{1,3})((?:(?:,|\{,\})\d{3})+)(?![\d])")
NUMBER_WITH_UNIT = re.compile(
    r"^([-+]?(?:[$£€]|\\\$)?\s*[-+]?(?:\d+(?:\.\d+)?|\.\d+|\\frac\{\d+\}\{\d+\}|\d+/\d+))\s*"
    r"(?:(?:[a-zA-Z]{2,}\.?|[a-zA-Z]\s*/)\s*(?:\^\s*\{?[23]\}?)?(?:\s*/?\s*[a-zA-Z]+\s*(?:\^\s*\{?[23]\}?)?)*)$"
)
# One-letter units are letters of algebra elsewhere, and these words are values, not units.
NO_UNIT = re.compile(r"(?i)\b(?:pi|sqrt|sin|cos|tan|log|ln|exp|or|and|to|mod|base|factorial|choose)\b|\d+e\d")
FUNCTION_WORDS = str.maketrans(
    {"−": "-", "–": "-", "×": "\\times ", "÷": "/", "π": "\\pi ", "√": "\\sqrt ", "∞": "\\infty "}
)
OPTION = re.compile(r"^\(?([A-Z])\)?[.:]?$")


def tidy(answer: str) -> str:
    """The answer in one spelling; still LaTeX."""
    text = unicodedata.normalize("NFKC", answer.translate(FUNCTION_WORDS)).translate(FUNCTION_WORDS).strip()
    text = unwrapped(text)
    text = re.sub(r"(?<=\d)\\[,!;: ](?=\d)", "", text)
    text = DROPPED.sub(" ", text)
    text = FRACTIONS.sub(r"\\frac", text)
    text = BARE_FRACTION.sub(r"\\frac{\1}{\2}", text)
    text = DEGREES.sub("", text)
    text = TEXT.sub(lambda match: f" {match.group(1)} ", text)
    text = THOUSANDS.sub(lambda match: match.group(1) + re.sub(r"[{},]", "", match.group(2)), text)
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r"(?<=\w)\.$|(?<=[)}\]])\.$", "", text)
    unit = NUMBER_WITH_UNIT.match(text)
    if unit and not NO_UNIT.search(text):
        text = unit.group(1).strip()
    option = OPTION.match(text)
    return option.group(1) if option else text


def unwrapped(text: str) -> str:
    r"""Without dollar signs and markup around the whole."""
    while True:
        before = text
        text = text.strip().strip("*`").strip()
        for left, right in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")):
            inside = text[len(left) : len(text) - len(right)]
            if len(text) > len(left + right) and text.startswith(left) and text.endswith(right) and left not in inside:
                text = inside
        if text == before:
            return text


def same_text(answer: str, reference: str) -> bool:
    """Equal but for spaces."""
    return answer.replace(" ", "") == reference.replace(" ", "")
