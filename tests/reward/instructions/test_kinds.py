"""Constraints: what satisfies each kind and what does not, by hand, with IFEval's published rules beside."""

import time

import pytest

from reward.instructions.answer import Answer
from reward.instructions.kinds import KINDS
from reward.instructions.reading import build
from reward.thinking import after_thinking

ALICE = 'Dr. J. Smith met Alice at 3.14 p.m. She said "Hi!" Then they left... I won\'t. Did he'

CASES = [  # kind, its fields, answers that satisfy it, answers that do not
    ("words", {"exactly": 4}, ["one two, three four.", "don't well-known"], ["one two three", "a b c d e"]),
    ("words", {"at_least": 2, "at_most": 3}, ["a b", "a b c"], ["a", "a b c d"]),
    ("words", {"at_most": 1}, ["word", "..."], ["two words"]),
    ("sentences", {"exactly": 5}, [ALICE], [ALICE + "? Yes."]),
    ("sentences", {"exactly": 2}, ["Mr. A. Bo is e.g. here. So", "你好。再见！", "(Yes.) No!"], ["One.", "A. B. C."]),
    ("sentences", {"exactly": 0}, ["..."], ["The answer is no."]),
    ("paragraphs", {"exactly": 2}, ["a\nb\n\nc", "a\n \n\n\nb"], ["a\nb", "a\n\nb\n\nc"]),
    ("paragraphs", {"exactly": 2, "separator": "***"}, ["a *** b", "***\na\n***\nb\n***"], ["a\n\nb", "a *** *** b"]),
    (
        "first_word",
        {"paragraph": 2, "word": "Then", "paragraphs": 2},
        ["One\n\nthen, two", '"One"\n\n"Then\' two'],
        ["One\n\nSo then", "Then", "One\n\nThen\n\nthree", "One\n\nthenceforth"],
    ),
    ("keywords_present", {"words": ["cat", "Dog"]}, ["A CAT, a dog", "concatenate dogs"], ["cat", "dog"]),
    ("keywords_absent", {"words": ["cat", "c++"]}, ["concatenate", "tomcat", "c"], ["A Cat.", "use C++ here"]),
    ("keyword_frequency", {"word": "aa", "exactly": 2}, ["aaaa", "Aa aA"], ["aaa", "aa aa aa"]),
    ("letter_frequency", {"letter": "E", "at_least": 3}, ["eEe", "every tree"], ["ee"]),
    ("letter_frequency", {"letter": "#", "exactly": 1}, ["a # b"], ["##", "a"]),
    ("starts_with", {"text": "I think "}, ["I think so"], ["So I think", "i think", "No.\nI think"]),
    ("ends_with", {"text": "Any questions?"}, ["So. any questions?", '"Any questions?"'], ["Any questions? No."]),
    ("quotation", {}, ['"so"', '""'], ['"', "'so'", '"so', 'so "it" is']),
    ("no_commas", {}, ["one; two"], ["one, two", "一，二", "و، ب"]),
    ("lower_case", {}, ["so it is 1"], ["So", "1"]),
    ("upper_case", {}, ["SO IT IS 1!"], ["So", "1"]),
    ("capital_words", {"exactly": 3}, ["An X-RAY in the U.S.A. I saw"], ["NASA AND 1", "none"]),
    (
        "bullets",
        {"exactly": 2},
        ["* a\n- b", "text:\n  - a\n\n  -b\n---\n***\n**bold**"],
        ["* a", "* \n-  \n- a", "a * b\n* c"],
    ),
    ("numbered", {"at_least": 2}, ["1. a\n2) b", "  10. a\n\n 3. b"], ["1. a\n2.b", "a 1. b 2. c"]),
    ("highlights", {"exactly": 2}, ["*a* and *b c*", "**a** and **b**", "*a* **b**"], ["* a", "**", "*a\nb* *c*"]),
    (
        "sections",
        {"marker": "Section", "exactly": 2},
        ["Section 1\na\nSection2\nb"],
        ["SECTION 1 Section 2", "Section"],
    ),
    ("title", {}, ["<<Joy>>\ntext", "a\n<< b >> c"], ["<<>>", "<< >>", "<a>", "<<a\nb>>", ">>a<<"]),
    ("placeholders", {"at_least": 2}, ["[a] [b c]", "[[a] b] [c]"], ["[a]", "[a] []", "[a\nb] [c]"]),
    ("postscript", {"marker": "P.S."}, ["Bye.\nP.S. more", "p. s. more"], ["PS more", "Bye"]),
    ("postscript", {"marker": "P.P.S"}, ["Bye. P.P.S more", "p.p.s. x"], ["P.S. more"]),
    ("json", {}, ["[1, 2]", '```json\n{"a": 1}\n```', "3"], ["{'a': 1}", "text {}", "NaN", "[" * 100_000, ""]),
    ("json", {"keys": ["a", "b"]}, ['{"b": 1, "a": null, "c": 2}'], ['{"a": 1}', '["a", "b"]']),
    ("repeat_prompt", {"prompt": " Say it. "}, ["say it. It."], ["It. Say it.", "Say it."]),
    ("regex", {"pattern": r"^\d{3}-\d{4}$"}, ["555-1234"], ["call 555-1234"]),
    ("regex", {"pattern": r"(?i)\bmaybe\b", "present": False}, ["no"], ["Maybe so"]),
    ("script", {"script": "cyrillic"}, ["Привет, 123!", "да " * 30 + "x"], ["Привет hello", "123"]),
    ("script", {"script": "japanese", "share": 1.0}, ["ラーメンが食べたい。", "日本語"], ["日本語 ok"]),
    ("script", {"script": "latin"}, ["naïve façade"], ["привет"]),
    ("ascii", {}, ["plain text"], ["naïve"]),
    ("one_of", {"options": ["yes", "yes sir", "no"]}, ["oh yes", "yes sir", "yes, yes"], ["yes or no", "maybe"]),
    ("two_responses", {}, ["a ****** b", "******\na\n******\nb"], ["a ****** a", "a", "a ****** ****** b"]),
]


def follows(kind: str, fields: dict, text: str) -> bool:
    return build({"kind": kind, **fields}, "it")(Answer(text, text.strip()))


@pytest.mark.parametrize(("kind", "fields", "good", "bad"), CASES)
def test_what_satisfies_a_constraint(kind, fields, good, bad):
    """Every listed answer is judged as a reader of the instruction would."""
    assert [text for text in good if not follows(kind, fields, text)] == []
    assert [text for text in bad if follows(kind, fields, text)] == []


@pytest.mark.parametrize(
    ("opened", "response", "good"),
    [
        (False, "<think>why</think>so", True),
        (False, " <think>\nwhy\n</think>\nso", True),
        (False, "so", False),
        (False, "<think></think>so", False),
        (False, "<think>why</think> ", False),
        (False, "<think>a</think>b<think>c</think>d", False),
        (False, "first <think>why</think>so", False),
        (True, "why</think>so", True),
        (True, "<think>why</think>so", False),
    ],
)
def test_think_tags(opened, response, good):
    """One pair of tags at the start, something inside and after; the template may have opened it."""
    assert (
        build({"kind": "think_tags", "opened": opened}, "it")(Answer(response, after_thinking(response) or "")) == good
    )


def test_every_kind_is_tested():
    """A new kind comes with its answers."""
    assert {kind for kind, *_ in CASES} | {"think_tags"} == set(KINDS)


HOSTILE = [
    text * (2**18 // len(text))
    for text in (
        " ",
        "\n",
        "*",
        "* ",
        "[",
        "<",
        "<<",
        "- \n",
        "p.",
        "p. ",
        '"',
        "a",
        "A.",
        "1. ",
        "\u3002",
        "((",
        "{",
        "a-",
        ">>",
    )
]
BIG = {  # fields that let a kind look at all of the text
    "first_word": {"paragraph": 1, "word": "a"},
    "keywords_present": {"words": ["aab", "]"]},
    "keywords_absent": {"words": ["aab", "*-"]},
    "keyword_frequency": {"word": "aab", "at_least": 1},
    "letter_frequency": {"letter": "z", "at_least": 1},
    "starts_with": {"text": "x"},
    "ends_with": {"text": "x"},
    "repeat_prompt": {"prompt": "x"},
    "regex": {"pattern": r"(a+)+(\s*)*(x|y)+$"},
    "script": {"script": "latin"},
    "one_of": {"options": ["x"]},
}
COUNTS = ("words", "sentences", "paragraphs", "capital_words", "bullets", "numbered", "highlights", "sections")


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_no_answer_makes_a_constraint_slow(kind):
    """A quarter of a megabyte of anything is judged in well under a second: nothing takes quadratic time."""
    constraint = build(
        {"kind": kind, **BIG.get(kind, {"at_least": 1} if kind in (*COUNTS, "placeholders") else {})}, "it"
    )
    slowest = 0.0
    for text in HOSTILE:
        started = time.process_time()
        constraint(Answer(text + "!", text + "!"))
        slowest = max(slowest, time.process_time() - started)
    assert slowest < 1.0
