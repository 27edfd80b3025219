"""Answers in words: names, yes and no, numbers written out, and the few phrases that stand for a set."""

import re

MAX_WORDS = 12
WORDS_FOR = {
    "no solution": "empty", "no solutions": "empty", "no real solution": "empty", "no real solutions": "empty",
    "empty set": "empty", "the empty set": "empty", "none": "none", "all real numbers": "reals", "all reals": "reals",
    "undefined": "undefined", "does not exist": "undefined", "dne": "undefined", "yes": "yes", "no": "no",
    "true": "true", "false": "false", "red": "red", "odd": "odd", "even": "even",
}  # fmt: skip
NUMBERS = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen twenty
""".split()  # noqa: SIM905
ARTICLES = frozenset({"the", "a", "an"})
WRAPPED = re.compile(r"\\text\{([^{}]*)\}")
WORD = re.compile(r"[^\W\d_]{2,}")
LONG_WORD = re.compile(r"[^\W\d_]{4,}")
MATH_WORD = re.compile(
    r"(?:arc)?(?:sin|cos|tan|cot|sec|csc)h?|log|sqrt|exp|ln|pi|infinity|infty|binom|choose|theta|alpha|beta"
)


def read_words(text: str) -> tuple[str, ...] | None:
    """The words of an answer that is nothing but words, in lower case and without articles; else None."""
    bare = WRAPPED.sub(r" \1 ", text)
    if not bare.strip() or not all(letter.isalpha() or letter in " .'-" for letter in bare):
        return None
    if bare == text and (not LONG_WORD.search(text) or MATH_WORD.match(text)):
        return None  # letters side by side are a product
    words = tuple(word for word in re.split(r"[ .\-]+", bare.casefold()) if word and word not in ARTICLES)
    if not words or len(words) > MAX_WORDS or (len(words) == 1 and len(words[0]) == 1) or {"and", "or"} & set(words):
        return None
    return words


def number_word(word: str) -> str:
    """ "two" and "2" are "2"."""
    return str(NUMBERS.index(word.lower())) if word.lower() in NUMBERS else word


def folded(text: str) -> str:
    """Words, numbers and signs without case, commas and spaces: for what can only be compared as text."""
    return " ".join(re.findall(r"\d*\.?\d+|\w+|[^\w\s,.]", WRAPPED.sub(r" \1 ", text).casefold()))
