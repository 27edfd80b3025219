"""IFEval's instruction names and arguments as constraints, so that its data can be used as it is published.

{"instruction_id_list": ["length_constraints:number_words"], "kwargs": [{"num_words": 300, "relation": "at least"}]}
    --> [{"kind": "words", "at_least": 300}]

Source: the published checkers of IFEval, arXiv:2311.07911 (A-code for what they accept). Not covered: languages in
Latin script, which no rule on characters can tell apart.
"""

from collections.abc import Callable, Mapping
from typing import Any

from reward.errors import UnusableReference

CONSTRAINED_RESPONSES = ["My answer is yes.", "My answer is no.", "My answer is maybe."]
SCRIPT_OF_LANGUAGE = {
    **dict.fromkeys(("bg", "mk", "ru", "uk"), "cyrillic"),
    **dict.fromkeys(("ar", "fa", "ur"), "arabic"),
    **dict.fromkeys(("hi", "mr", "ne"), "devanagari"),
    **{"bn": "bengali", "el": "greek", "gu": "gujarati", "he": "hebrew", "ja": "japanese", "kn": "kannada"},
    **{"ko": "hangul", "ml": "malayalam", "pa": "gurmukhi", "ta": "tamil", "te": "telugu", "th": "thai"},
    **dict.fromkeys(("zh", "zh-cn", "zh-tw"), "han"),
}
Arguments = Mapping[str, Any]


def related(number: Any, relation: Any) -> dict[str, Any]:
    """ "less than" and "at least" as bounds."""
    if relation == "at least":
        return {"at_least": number}
    if relation == "less than" and isinstance(number, int):
        return {"at_most": number - 1}
    raise UnusableReference(f"an IFEval relation is 'at least' or 'less than' a number, got {relation!r} {number!r}")


def language(code: Any) -> dict[str, Any]:
    if code not in SCRIPT_OF_LANGUAGE:
        raise UnusableReference(
            f"IFEval's response_language {code!r} cannot be judged: only languages with a script of their own can,"
            f" {', '.join(sorted(SCRIPT_OF_LANGUAGE))}"
        )
    return {"kind": "script", "script": SCRIPT_OF_LANGUAGE[code]}


INSTRUCTIONS: dict[str, Callable[[Arguments], dict[str, Any]]] = {
    "change_case:capital_word_frequency": lambda a: {
        "kind": "capital_words",
        **related(a["capital_frequency"], a["capital_relation"]),
    },
    "change_case:english_capital": lambda a: {"kind": "upper_case"},
    "change_case:english_lowercase": lambda a: {"kind": "lower_case"},
    "combination:repeat_prompt": lambda a: {"kind": "repeat_prompt", "prompt": a["prompt_to_repeat"]},
    "combination:two_responses": lambda a: {"kind": "two_responses"},
    "detectable_content:number_placeholders": lambda a: {"kind": "placeholders", "at_least": a["num_placeholders"]},
    "detectable_content:postscript": lambda a: {"kind": "postscript", "marker": a["postscript_marker"]},
    "detectable_format:constrained_response": lambda a: {"kind": "one_of", "options": CONSTRAINED_RESPONSES},
    "detectable_format:json_format": lambda a: {"kind": "json"},
    "detectable_format:multiple_sections": lambda a: {
        "kind": "sections",
        "marker": a["section_spliter"],
        "at_least": a["num_sections"],
    },
    "detectable_format:number_bullet_lists": lambda a: {"kind": "bullets", "exactly": a["num_bullets"]},
    "detectable_format:number_highlighted_sections": lambda a: {"kind": "highlights", "at_least": a["num_highlights"]},
    "detectable_format:title": lambda a: {"kind": "title"},
    "keywords:existence": lambda a: {"kind": "keywords_present", "words": a["keywords"]},
    "keywords:forbidden_words": lambda a: {"kind": "keywords_absent", "words": a["forbidden_words"]},
    "keywords:frequency": lambda a: {
        "kind": "keyword_frequency",
        "word": a["keyword"],
        **related(a["frequency"], a["relation"]),
    },
    "keywords:letter_frequency": lambda a: {
        "kind": "letter_frequency",
        "letter": a["letter"],
        **related(a["let_frequency"], a["let_relation"]),
    },
    "language:response_language": lambda a: language(a["language"]),
    "length_constraints:nth_paragraph_first_word": lambda a: {
        "kind": "first_word",
        "paragraph": a["nth_paragraph"],
        "paragraphs": a["num_paragraphs"],
        "word": a["first_word"],
    },
    "length_constraints:number_paragraphs": lambda a: {
        "kind": "paragraphs",
        "exactly": a["num_paragraphs"],
        "separator": "***",
    },
    "length_constraints:number_sentences": lambda a: {
        "kind": "sentences",
        **related(a["num_sentences"], a["relation"]),
    },
    "length_constraints:number_words": lambda a: {"kind": "words", **related(a["num_words"], a["relation"])},
    "punctuation:no_comma": lambda a: {"kind": "no_commas"},
    "startend:constrained_start": lambda a: {"kind": "starts_with", "text": a["starter"]},
    "startend:end_checker": lambda a: {"kind": "ends_with", "text": a["end_phrase"]},
    "startend:quotation": lambda a: {"kind": "quotation"},
}


def from_ifeval(names: Any, arguments: Any) -> list[dict[str, Any]]:
    """Constraints as plain fields. Raises UnusableReference for a name or arguments that IFEval does not have."""
    if not isinstance(names, list) or not isinstance(arguments, list) or len(names) != len(arguments):
        raise UnusableReference("an IFEval reference has instruction_id_list and kwargs, two lists of one length")
    listed = []
    for name, given in zip(names, arguments, strict=True):
        if name not in INSTRUCTIONS:
            raise UnusableReference(f"there is no IFEval instruction {name!r}; there are {', '.join(INSTRUCTIONS)}")
        if not isinstance(given, Mapping):
            raise UnusableReference(f"the IFEval instruction {name} has an object of arguments, got {given!r}")
        try:
            # the published data sets write every argument of every instruction, null where it is another's
            listed.append(INSTRUCTIONS[name]({key: value for key, value in given.items() if value is not None}))
        except KeyError as error:
            raise UnusableReference(f"the IFEval instruction {name} needs the argument {error.args[0]}") from error
    return listed
