r"""Find the answer in a response: the last box after the reasoning, or the last of the weaker signs.

\boxed{..} or \fbox{..}, last one     "#### 42"     "the answer is 42"     the last $..$     the last number

Of what is stated, a reason given behind it ("5, since there are 3 boxes") is left away; what is left open ("42 or 43",
"one of 5, 6, 7") or taken back ("42. Wait, 43.") is returned whole, and then equals no single value.

A response is at most 1 MiB here and its author is hostile, so every scan is linear: a box is closed by one walk over
the braces, and the weaker signs, which stand at the end, are looked for in the last `TAIL_CHARS` only.
"""

import re

from reward.thinking import THINK_START, after_thinking

MAX_RESPONSE_CHARS = 1 << 20
TAIL_CHARS = 4000
MARKUP = "*_` \t"

BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])[ \t\n]?")
BRACE = re.compile(r"\\[\\{}]|[{}]|\\(?:boxed|fbox)(?![a-zA-Z])[ \t\n]?")
BARE_BOX = re.compile(r"\\[a-zA-Z]+|-?[\d.,]*\d|[^\s{}]", re.ASCII)
HASHES = re.compile(r"####[ \t]*([^\n]+)")
STATED = re.compile(r"(?i)\banswer[ \t]*\**(?::|=|\bis\b|\bare\b|\bwould be\b)[ \t]*")
STATED_END = re.compile(r"\n|\.(?!\d)(?!\s*m\b)(?=\s|\**\s*$)")
DOLLARS = re.compile(r"\$\$([^$]+)\$\$|\$([^$\n]+)\$|\\\(((?:[^\\]|\\(?![()]))+)\\\)|\\\[((?:[^\\]|\\(?![\[\]]))+)\\\]")
NUMBER = re.compile(r"(?<![\d.)\]a-zA-Z])-?\d[\d,]*(?:\.\d+)?(?:/\d+)?%?|\d[\d,]*(?:\.\d+)?%?", re.ASCII)
SENTENCE = re.compile(r"[a-zA-Z]{3,}\s+[a-zA-Z]")
CONTRARY = re.compile(
    r"(?i)\b(?:one of|not|or|nor|neither|either|and|between|least|most|than|about|over|under)\b|n't|\?"
)
# "42 apples because there are 7 of 6" states 42; "3 times 4, which is 12" does not state 3
LEADING = re.compile(
    r"(?i)\\?\$?(-?\d[\d,]*(?:\.\d+)?(?:/\d+)?%?)(?=[,;:]? [a-z])"
    r"(?!\W+(?:times|plus|minus|divided|multiplied|over|x|of|and)\b)",
    re.ASCII,
)
REASON = re.compile(r"(?i),? \b(?:because|since)\b")
CHOSEN = re.compile(r"\([A-J]\)|[A-J](?=[).:]|,? (?:because|since)\b)")
EXCLAIMED = re.compile(r"(?<=\d)!+$")  # in prose no factorial
TAKEN_BACK = re.compile(
    r"(?i)[\s.*_$)\]]*(?:(?:wait|nope|hmm|correction|sorry)\b|or\b(?!,? (?:equivalently|in|simply|as)\b)"
    r"|no(?=[,.:;!]| it\b| wait\b)|actually,? (?:it|the answer)\b|(?:actually|alternatively|maybe|perhaps),? \W{0,3}\d)"
)


def extract_answer(response: str) -> str | None:
    """The answer as written, or None where the response gives none. Reasoning that never ends gives none."""
    text = after_thinking(response[-MAX_RESPONSE_CHARS:])
    if text is None or THINK_START in text:
        return None
    boxed = last_box(text)
    if boxed is not None:
        return boxed.strip() or None
    tail = text[-TAIL_CHARS:]
    for found in (last_hashes, last_stated, last_formula, last_number):
        answer = found(tail)
        if answer is not None:
            return answer.strip() or None
    return None


def last_box(text: str) -> str | None:
    r"""The contents of the last box whose braces close, boxes inside it opened. `\boxed 5` boxes one token, as TeX."""
    first = BOX.search(text)
    if first is None:
        return None
    last: tuple[int, int] | None = None
    open_braces: list[int | None] = []  # of a box: where its contents start; of any other brace: None
    boxes = -1  # where the brace of a box that was just named stands
    for match in BRACE.finditer(text, first.start()):
        token = match.group()
        if token.startswith(("\\boxed", "\\fbox")):
            boxes = match.end()
            if text[boxes : boxes + 1] != "{" and (bare := BARE_BOX.match(text, boxes)):
                last = bare.span()
        elif token == "{":
            open_braces.append(match.end() if match.start() == boxes else None)
        elif token == "}" and open_braces:
            start = open_braces.pop()
            if start is not None:
                last = start, match.start()
    return None if last is None else BOX.sub("", text[last[0] : last[1]])


def last_hashes(text: str) -> str | None:
    found = HASHES.findall(text)
    return found[-1] if found else None


def last_stated(text: str) -> str | None:
    """What follows the last "answer is", to the end of its sentence."""
    found = None
    for found in STATED.finditer(text):  # noqa: B007  the last one
        pass
    if found is None:
        return None
    rest = text[found.end() :]
    if not rest.strip(MARKUP + "\n"):
        return None
    rest = rest.lstrip(MARKUP + ":\n") if found.group().strip()[-1:] in ":*" else rest.lstrip(MARKUP + ":")
    end = STATED_END.search(rest)
    stated = (rest[: end.start()] if end else rest).strip(MARKUP)
    if not stated:
        return None
    if end and TAKEN_BACK.match(rest, end.start()):
        return rest  # "42. Or 43.", "42. Wait, it is 43."
    if CONTRARY.search(stated):
        return stated  # "42 or 43", "not 42": no part of it is the answer
    formula = last_formula(stated)
    if formula is not None:
        return formula
    stated = EXCLAIMED.sub("", stated)
    reason = REASON.search(stated)
    if CHOSEN.match(stated):
        return stated[: reason.start()] if reason else stated
    if not reason and not SENTENCE.search(stated):
        return stated
    leading = LEADING.match(stated)
    return leading.group(1).rstrip(",") if leading else last_number(stated) or stated


def last_formula(text: str) -> str | None:
    found = [next(group for group in groups if group) for groups in DOLLARS.findall(text)]
    return found[-1] if found else None


def last_number(text: str) -> str | None:
    found = NUMBER.findall(text)
    return found[-1].rstrip(",") if found else None
