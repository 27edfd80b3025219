r"""One spelling for what many spellings mean, so that equal answers are mostly equal texts.

`1\,000` is 1000, `7.` is 7, a full-width digit is a digit, `\dfrac` is `\frac`, `\mbox` is `\text`. What a reader sees
is what counts: a superscript stays a power (NFKC alone makes 52 of 5 squared), and characters that change what is seen
(right-to-left marks, combining strokes, look-alike letters) stay in, where they make the answer unreadable.
"""

import re
import unicodedata

SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n", strict=True))
SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))
VULGAR = {"½": "12", "⅓": "13", "⅔": "23", "¼": "14", "¾": "34", "⅕": "15", "⅖": "25", "⅗": "35", "⅘": "45", "⅛": "18"}
GREEK = """
    alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigmaf sigma tau upsilon
    phi chi psi omega
""".split()  # noqa: SIM905  in the order of Unicode
SYMBOLS = {
    "−": "-", "–": "-", "‐": "-", "—": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "÷": "/",
    "√": r"\sqrt ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "±": r"\pm ",
    "∓": r"\mp ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "∖": r"\setminus ", "°": r"^\circ ",
    "⟨": r"\langle ", "⟩": r"\rangle ", "ℝ": r"\mathbb{R}", "′": "'", "’": "'", "‘": "'", "⌊": r"\lfloor ",
    "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u2002": " ",
    "\u2003": " ", "¢": r"\text{ cents}",
    # invisible, and without effect on what is seen
    "\u200b": "", "\u200c": "", "\u200d": "", "\u2060": "", "\ufeff": "", "\u00ad": "",
}  # fmt: skip
SYMBOLS |= {chr(ord("α") + at): f"\\{name} " for at, name in enumerate(GREEK)}
SYMBOLS |= {fraction: rf" \frac{{{digits[0]}}}{{{digits[1]}}}" for fraction, digits in VULGAR.items()}
TABLE = str.maketrans(SYMBOLS)
RAISED = re.compile(f"[{''.join(SUPERSCRIPTS)}]+")
LOWERED = re.compile(f"[{''.join(SUBSCRIPTS)}]+")
FULL_WIDTH = re.compile("[\uff01-\uff5e]")

DROPPED = re.compile(
    r"\\(?:left|right|middle)\s*\.|\\(?:left|right|middle|displaystyle|limits|[bB]igg?[lrm]?)(?![a-zA-Z])|(?<!\\)\\!"
)
SPACES = re.compile(r"\\(?:quad|qquad|thinspace)(?![a-zA-Z])|(?<!\\)\\[,;:> ]|~")
FRACTIONS = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
BARE_FRACTION = re.compile(r"\\frac\s*(\d|\{\d+\})\s*(\d|\{\d+\})", re.ASCII)
TEXT = re.compile(
    r"\\(?:mbox|textrm|textbf|textit|textsf|texttt|emph|mathrm|mathbf|mathit|mathsf|bm|boldsymbol|rm)\s*\{"
)
DEGREES = re.compile(r"\^\s*\{\s*\\circ\s*\}|\\degrees?(?![a-zA-Z])")
GROUPED = re.compile(r"(?<![\d.,\\])(\d{1,3})((?:(?:,|\{,\}| )\d{3})+)(?!\d|,\d|\{,\}| \d|\.\d*,)", re.ASCII)
ALIASES = {
    r"\leq": r"\le", r"\geq": r"\ge", r"\leqslant": r"\le", r"\geqslant": r"\ge", r"\neq": r"\ne", r"\lt": "<",
    r"\gt": ">", r"\varnothing": r"\emptyset", r"\lbrace": r"\{", r"\rbrace": r"\}", r"\ast": r"\cdot",
    r"\colon": ":", r"\bmod": r"\mod", r"\infin": r"\infty", r"\to": r"\rightarrow", r"\R": r"\mathbb{R}",
    r"\lvert": "|", r"\rvert": "|", r"\vert": "|", r"\dollar": r"\$", r"\textdollar": r"\$", r"\lbrack": "[",
    r"\rbrack": "]",
}  # fmt: skip
COMMAND = re.compile(r"\\[a-zA-Z]+")
LOOSE_SPACE = re.compile(r" (?![0-9a-zA-Z.])|(?<![0-9a-zA-Z.]) ")
OPENERS, CLOSERS = ("(", "[", r"\{", r"\langle"), (")", "]", r"\}", r"\rangle")
BRACKET = re.compile(r"\\[{}]|\\[lr]angle(?![a-zA-Z])|[()\[\]]")


def tidy(answer: str) -> str:
    """The answer in one spelling; still LaTeX."""
    text = RAISED.sub(lambda found: "^{" + "".join(SUPERSCRIPTS[one] for one in found.group()) + "}", answer)
    text = LOWERED.sub(lambda found: "_{" + "".join(SUBSCRIPTS[one] for one in found.group()) + "}", text)
    text = FULL_WIDTH.sub(lambda found: chr(ord(found.group()) - 0xFEE0), unicodedata.normalize("NFC", text))
    text = unwrapped(text.translate(TABLE))
    if "\\" in text or "~" in text:
        text = SPACES.sub(" ", DROPPED.sub("", text))
        text = COMMAND.sub(lambda found: ALIASES.get(found.group(), found.group()), text)
        text = FRACTIONS.sub(r"\\frac", text)
        text = BARE_FRACTION.sub(lambda found: r"\frac" + braced(found.group(1)) + braced(found.group(2)), text)
        text = DEGREES.sub(r"^\\circ ", text)
        text = TEXT.sub(r"\\text{", text)
    text = " ".join(text.split())
    if re.search(r"\d[ ,{]", text):
        text = ungrouped(text)
    return re.sub(r"(?<=[\w)}\]%])[.;,]$", "", unwrapped(text))


def braced(text: str) -> str:
    return text if text.startswith("{") else f"{{{text}}}"


def ungrouped(text: str) -> str:
    """Digits written in groups of three as one number; inside brackets a comma separates."""
    depth, since, pieces = 0, 0, []
    for bracket in (*BRACKET.finditer(text), None):
        end = bracket.start() if bracket else len(text)
        piece = text[since:end]
        pieces.append(GROUPED.sub(joined, piece) if depth == 0 else GROUPED.sub(joined_by_braces, piece))
        if bracket:
            depth = depth + 1 if bracket.group() in OPENERS else max(0, depth - 1)
            pieces.append(bracket.group())
            since = bracket.end()
    return "".join(pieces)


def joined(found: re.Match[str]) -> str:
    return re.sub(r"[{}, ]", "", found.group())


def joined_by_braces(found: re.Match[str]) -> str:
    return found.group() if re.search(r"(?<!\{),|,(?!\})", found.group()) else joined(found)


def unwrapped(text: str) -> str:
    r"""Without dollar signs and markup around the whole."""
    while True:
        before = text
        text = text.strip()
        for mark in ("***", "**", "*", "`"):
            if len(text) > 2 * len(mark) and text.startswith(mark) and text.endswith(mark):
                text = text[len(mark) : -len(mark)]
        for left, right in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("{", "}")):
            inside = text[len(left) : len(text) - len(right)]
            if (
                len(text) > len(left + right)
                and text.startswith(left)
                and text.endswith(right)
                and not text.endswith("\\" + right)
                and left not in inside
                and right not in inside
            ):
                text = inside
        if text == before:
            return text


def same_text(answer: str, reference: str) -> bool:
    """Equal but for spaces, where a space does not part two numbers or words."""
    return answer == reference or LOOSE_SPACE.sub("", answer) == LOOSE_SPACE.sub("", reference)
