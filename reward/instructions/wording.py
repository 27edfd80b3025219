"""Constraints on which words and characters occur."""

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

import re2

from reward.instructions.answer import Answer
from reward.instructions.constraint import Count, needs_text

COMMAS = ",，،"
# one word with its hyphens, apostrophes and dots: U.S.A., X-RAY
SPELLED = re.compile(r"[^\W_]+(?:[-'’.][^\W_]+)*")
MAX_PATTERN_CHARS = 1000
MAX_REGEX_BYTES = 8 << 20  # of memory for its automaton

SCRIPTS = {  # script -> how Unicode begins the names of its letters
    "arabic": ("ARABIC",),
    "bengali": ("BENGALI",),
    "cyrillic": ("CYRILLIC",),
    "devanagari": ("DEVANAGARI",),
    "greek": ("GREEK",),
    "gujarati": ("GUJARATI",),
    "gurmukhi": ("GURMUKHI",),
    "han": ("CJK",),
    "hangul": ("HANGUL",),
    "hebrew": ("HEBREW",),
    "japanese": ("HIRAGANA", "KATAKANA", "CJK", "KATAKANA-HIRAGANA"),
    "kannada": ("KANNADA",),
    "latin": ("LATIN", "FULLWIDTH LATIN"),
    "malayalam": ("MALAYALAM",),
    "tamil": ("TAMIL",),
    "telugu": ("TELUGU",),
    "thai": ("THAI",),
}


def check_words(words: list[str]) -> None:
    if not words:
        raise ValueError("words is a list of at least one text")
    for word in words:
        needs_text(words=word)


@dataclass(frozen=True, kw_only=True)
class KeywordsPresent:
    """All of them occur, also inside other words, in any case. IFEval keywords:existence."""

    words: list[str]

    def __post_init__(self) -> None:
        check_words(self.words)

    def __call__(self, answer: Answer) -> bool:
        return all(word.lower() in answer.lower for word in self.words)


@dataclass(frozen=True, kw_only=True)
class KeywordsAbsent:
    """None of them occurs as a word of its own, in any case. IFEval keywords:forbidden_words."""

    words: list[str]

    def __post_init__(self) -> None:
        check_words(self.words)

    def __call__(self, answer: Answer) -> bool:
        return not any(re.search(rf"(?<!\w){re.escape(word.lower())}(?!\w)", answer.lower) for word in self.words)


@dataclass(frozen=True, kw_only=True)
class KeywordFrequency(Count):
    """Occurrences without overlap, also inside other words, in any case. IFEval keywords:frequency."""

    word: str

    def __post_init__(self) -> None:
        Count.__post_init__(self)
        needs_text(word=self.word)

    def count(self, answer: Answer) -> int:
        return answer.lower.count(self.word.lower())


@dataclass(frozen=True, kw_only=True)
class LetterFrequency(Count):
    """Occurrences of one character in any case. IFEval keywords:letter_frequency."""

    letter: str

    def __post_init__(self) -> None:
        Count.__post_init__(self)
        if len(self.letter) != 1:
            raise ValueError(f"letter is one character, got {self.letter!r}")

    def count(self, answer: Answer) -> int:
        return answer.lower.count(self.letter.lower())


@dataclass(frozen=True, kw_only=True)
class CapitalWords(Count):
    """Words all of whose letters are capital; hyphenated ones are one. IFEval change_case:capital_word_frequency."""

    def count(self, answer: Answer) -> int:
        return sum(word.isupper() for word in SPELLED.findall(answer.text))


@dataclass(frozen=True, kw_only=True)
class LowerCase:
    """At least one letter, none of them capital. IFEval change_case:english_lowercase, without guessing languages."""

    def __call__(self, answer: Answer) -> bool:
        return answer.text.islower()


@dataclass(frozen=True, kw_only=True)
class UpperCase:
    """At least one letter, all of them capital. IFEval change_case:english_capital, without guessing languages."""

    def __call__(self, answer: Answer) -> bool:
        return answer.text.isupper()


@dataclass(frozen=True, kw_only=True)
class NoCommas:
    """IFEval punctuation:no_comma; the commas of Chinese and Arabic are commas too."""

    def __call__(self, answer: Answer) -> bool:
        return not any(comma in answer.text for comma in COMMAS)


@dataclass(frozen=True, kw_only=True)
class Ascii:
    def __call__(self, answer: Answer) -> bool:
        return answer.text.isascii()


@dataclass(frozen=True, kw_only=True)
class Script:
    """At least `share` of the letters, and at least one, are of one script. Not a guess of the language."""

    script: str
    share: float = 0.95

    def __post_init__(self) -> None:
        if self.script not in SCRIPTS:
            raise ValueError(f"script is one of {', '.join(SCRIPTS)}, got {self.script!r}")
        if not 0.0 < self.share <= 1.0:
            raise ValueError(f"share is a fraction of the letters in (0, 1], got {self.share}")

    def __call__(self, answer: Answer) -> bool:
        letters = {one: number for one, number in Counter(answer.text).items() if one.isalpha()}
        of_script = sum(number for one, number in letters.items() if script_of(one, SCRIPTS[self.script]))
        return of_script > 0 and of_script >= self.share * sum(letters.values())


def script_of(letter: str, prefixes: tuple[str, ...]) -> bool:
    return unicodedata.name(letter, "").startswith(prefixes)


@dataclass(frozen=True, kw_only=True)
class Regex:
    """A regular expression is found, or with `present` false is not; `(?s)`, `(?i)` and so on work inside it.

    RE2 searches: no pattern takes more than linear time, so back-references and look-around do not exist.
    """

    pattern: str
    present: bool = True

    def __post_init__(self) -> None:
        needs_text(pattern=self.pattern)
        if len(self.pattern) > MAX_PATTERN_CHARS:
            raise ValueError(f"pattern has at most {MAX_PATTERN_CHARS} characters, got {len(self.pattern)}")
        compiled(self.pattern)

    def __call__(self, answer: Answer) -> bool:
        return (compiled(self.pattern).search(answer.text) is not None) == self.present


@lru_cache(maxsize=1024)
def compiled(pattern: str):
    options = re2.Options()
    options.log_errors = False
    options.max_mem = MAX_REGEX_BYTES
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else error
        raise ValueError(f"pattern {pattern!r} is no regular expression of RE2: {reason}") from error
