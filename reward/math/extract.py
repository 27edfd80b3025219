r"""Find the answer in a response: the last box after the reasoning, or the last of the weaker signs.

\boxed{..} or \fbox{..}, last one     "#### 42"     "the answer is 42"     the last $..$     the last number
"""

import re

THINK_START, THINK_END = "<think>", "</think>"
BOX = re.compile(r"\\(?:boxed|fbox)\s*(?:\{|(?=[^\s{]))")
HASHES = re.compile(r"####[ \t]*([^\n]+)")
STATED = re.compile(
    r"(?i)\banswer\s*(?:is|are|:|=)\s*:?\s*((?:\$[^$\n]+\$|[^\n.]|\.(?=\d))+)",
)
DOLLARS = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
NUMBER = re.compile(
    r"(?<![\d.)\]a-zA-Z])-?(?:\d[\d,]*\d|\d)(?:\.\d+)?(?:/\d+)?%?|(?<=[\d.)\]a-zA-Z])(?:\d[\d,]*\d|\d)(?:\.\d+)?%?"
)
MAX_RESPONSE_CHARS = 1 << 20
MARKUP = "*_ \t"


def extract_answer(response: str) -> str | None:
    """The answer as written, or None where the response gives none. Reasoning that never ends gives none."""
    text = response[-MAX_RESPONSE_CHARS:]
    before, ended, after = text.rpartition(THINK_END)
    if ended:
        text = after
    elif THINK_START in text:
        return None
    for found in (last_box, last_hashes, last_stated, last_formula, last_number):
        answer = found(text)
        if answer is not None:
            return answer.strip() or None
    return None


def last_box(text: str) -> str | None:
    r"""The contents of the last box whose braces close. `\boxed 5` boxes one character, as TeX has it."""
    for match in reversed(list(BOX.finditer(text))):
        if not match.group().endswith("{"):
            word = re.match(r"\\[a-zA-Z]+|-?[\d.,]+|\S", text[match.end() :])
            return word.group() if word else None
        depth = 1
        for position in range(match.end(), len(text)):
            character = text[position]
            if text[position - 1] == "\\":
                continue
            depth += (character == "{") - (character == "}")
            if depth == 0:
                return text[match.end() : position]
    return None


def last_hashes(text: str) -> str | None:
    found = HASHES.findall(text)
    return found[-1] if found else None


def last_stated(text: str) -> str | None:
    found = STATED.findall(text)
    if not found:
        return None
    stated = found[-1].strip(MARKUP)
    formula = last_formula(stated)
    if formula is not None:
        return formula
    # "the answer is 42 apples because ..." states 42
    return stated if not re.search(r"[a-zA-Z]{3,}\s+[a-zA-Z]", stated) else last_number(stated) or stated


def last_formula(text: str) -> str | None:
    found = [next(group for group in groups if group) for groups in DOLLARS.findall(text)]
    return found[-1] if found else None


def last_number(text: str) -> str | None:
    found = NUMBER.findall(text)
    return found[-1] if found else None
