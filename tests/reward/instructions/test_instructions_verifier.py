"""The verifier `instructions`: the fraction, the components, and the sentence for a reference that is wrong."""

import pytest

from reward.config import RewardConfig
from reward.instructions.ifeval import INSTRUCTIONS
from reward.instructions.verifier import InstructionsVerifier
from reward.messages import Status, Verdict, VerifyRequest

CONSTRAINTS = {
    "constraints": [{"kind": "words", "at_most": 4}, {"kind": "no_commas"}, {"kind": "words", "at_least": 3}]
}


def judged(response: str, reference: dict) -> Verdict:
    request = VerifyRequest(id="7", verifier="instructions", response=response, reference=reference)
    return InstructionsVerifier(RewardConfig()).verify([request])[0]


@pytest.mark.parametrize(
    ("response", "reward", "components"),
    [
        ("one two three", 1.0, (1, 1, 1, 1)),
        ("one, two three", 2 / 3, (1, 0, 1, 0)),
        ("a, b, c, d, e", 1 / 3, (0, 0, 1, 0)),
        ("one", 2 / 3, (1, 1, 0, 0)),
        ("<think>well, a, b, c, d, e</think>one two three", 1.0, (1, 1, 1, 1)),
    ],
)
def test_the_reward_is_the_fraction_satisfied(response, reward, components):
    """Reasoning does not count; a kind that comes twice is numbered; `all` is 1 only where nothing is missed."""
    verdict = judged(response, CONSTRAINTS)
    assert verdict.status is Status.SCORED
    assert verdict.reward == pytest.approx(reward)
    assert verdict.components == dict(zip(("words", "no_commas", "words_2", "all"), components, strict=True))


@pytest.mark.parametrize("response", ["", " \n ", "<think>no end", "<think>why</think>  "])
def test_saying_nothing_satisfies_nothing(response):
    """An empty answer has no commas and few words, and gets 0 for it: malformed."""
    verdict = judged(response, CONSTRAINTS)
    assert (verdict.status, verdict.reward) == (Status.MALFORMED, 0.0)
    assert set(verdict.components.values()) == {0.0}


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ({}, 'an instructions reference is {"constraints": .* got None'),
        ({"constraints": []}, "with 1 to 100 constraints, got "),
        ({"constraints": [{"kind": "no_commas"}] * 101}, "with 1 to 100 constraints"),
        ({"constraints": ["no_commas"]}, r"constraint 1: expected .* got 'no_commas'"),
        (
            {"constraints": [{"kind": "no_comas"}]},
            r"constraint 1 \(no_comas\): there is no such kind; did you mean no_commas\?",
        ),
        ({"constraints": [{"kind": "words"}]}, r"constraint 1 \(words\): give exactly, or at_least"),
        ({"constraints": [{"kind": "words", "exactly": 1, "at_most": 3}]}, "give exactly, or"),
        ({"constraints": [{"kind": "words", "at_least": 4, "at_most": 3}]}, "at_least 4 is above at_most 3"),
        ({"constraints": [{"kind": "words", "at_least": -1}]}, "numbers from 0"),
        ({"constraints": [{"kind": "words", "at_least": "3"}]}, r"at_least: input should be a valid integer, got '3'"),
        (
            {"constraints": [{"kind": "words", "at_least": True}]},
            r"at_least: input should be a valid integer, got True",
        ),
        ({"constraints": [{"kind": "title"}, {"kind": "starts_with"}]}, r"constraint 2 \(starts_with\): needs text"),
        ({"constraints": [{"kind": "starts_with", "text": " "}]}, "text is a text that is not empty"),
        ({"constraints": [{"kind": "title", "words": 3}]}, r"unknown field 'words', it has none"),
        ({"constraints": [{"kind": "regex", "pattern": r"(a)\1"}]}, "is no regular expression of RE2: invalid escape"),
        ({"constraints": [{"kind": "regex", "pattern": "a" * 1001}]}, "at most 1000 characters, got 1001"),
        ({"constraints": [{"kind": "script", "script": "runes"}]}, "script is one of arabic, .* got 'runes'"),
        (
            {"constraints": [{"kind": "paragraphs", "exactly": 1, "separator": "-"}]},
            "separator: input should be 'blank_line' or",
        ),
        ({"instruction_id_list": ["startend:quotation"], "kwargs": []}, "two lists of one length"),
        ({"instruction_id_list": ["x:y"], "kwargs": [{}]}, "there is no IFEval instruction 'x:y'"),
        (
            {"instruction_id_list": ["length_constraints:number_words"], "kwargs": [{"relation": "at least"}]},
            "number_words needs the argument num_words",
        ),
        (
            {"instruction_id_list": ["language:response_language"], "kwargs": [{"language": "de"}]},
            "response_language 'de' cannot be judged",
        ),
    ],
)
def test_a_wrong_reference_is_an_error_in_one_sentence(reference, sentence):
    """It names the constraint and the field, and is never a reward."""
    verdict = judged("text", reference)
    assert (verdict.status, verdict.reward, verdict.components) == (Status.ERROR, 0.0, {})
    with pytest.raises(AssertionError, match=sentence):
        raise AssertionError(verdict.detail)
    assert "\n" not in verdict.detail


# name in IFEval, its arguments, an answer that its published checker accepts, one that it does not
IFEVAL = [
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "less than"},
        "ONE b",
        "ONE TWO",
    ),
    ("change_case:english_capital", {}, "YES", "Yes"),
    ("change_case:english_lowercase", {}, "yes", "Yes"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Why?"}, "Why? So.", "So."),
    ("combination:two_responses", {}, "a ****** b", "a"),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[a] [b] [c]", "[a]"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "a\n\nP.S. b", "a"),
    ("detectable_format:constrained_response", {}, "My answer is yes.", "yes"),
    ("detectable_format:json_format", {}, '{"a": 1}', "a"),
    ("detectable_format:multiple_sections", {"section_spliter": "SECTION", "num_sections": 1}, "SECTION 1\na", "a"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 1}, "* a", "* a\n* b"),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 1}, "*a* *b*", "a"),
    ("detectable_format:title", {}, "<<a>>", "a"),
    ("keywords:existence", {"keywords": ["a", "b"]}, "a b", "a"),
    ("keywords:forbidden_words", {"forbidden_words": ["a"]}, "b", "a b"),
    ("keywords:frequency", {"keyword": "a", "frequency": 2, "relation": "at least"}, "a a", "a"),
    ("keywords:letter_frequency", {"letter": "a", "let_frequency": 2, "let_relation": "less than"}, "a", "aa"),
    ("language:response_language", {"language": "ru"}, "да", "da"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "b"},
        "a\n\nB c",
        "a\n\nc b",
    ),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\n***\nb", "a\n\nb"),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "less than"}, "One.", "One. Two."),
    ("length_constraints:number_words", {"num_words": 2, "relation": "at least"}, "a b", "a"),
    ("punctuation:no_comma", {}, "a b", "a, b"),
    ("startend:constrained_start", {"starter": "I think"}, "I think so", "So"),
    ("startend:end_checker", {"end_phrase": "The end."}, "So. The end.", "The end. So."),
    ("startend:quotation", {}, '"a"', "a"),
]


@pytest.mark.parametrize(("name", "arguments", "good", "bad"), IFEVAL)
def test_ifeval_data_is_judged_as_it_is_published(name, arguments, good, bad):
    """Names, arguments (with the nulls of the published files) and verdicts are those of IFEval."""
    reference = {"instruction_id_list": [name], "kwargs": [{**arguments, "other": None}]}
    assert [judged(text, reference).reward for text in (good, bad)] == [1.0, 0.0]


def test_every_ifeval_instruction_is_tested():
    """A new one comes with its answers."""
    assert [name for name, *_ in IFEVAL] == list(INSTRUCTIONS)
