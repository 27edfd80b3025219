"""The kinds of constraints by name: adding one is a class and a line here."""

from reward.instructions import layout, length, wording
from reward.instructions.constraint import Constraint

KINDS: dict[str, type[Constraint]] = {
    "ascii": wording.Ascii,
    "bullets": layout.Bullets,
    "capital_words": wording.CapitalWords,
    "ends_with": layout.EndsWith,
    "first_word": length.FirstWord,
    "highlights": layout.Highlights,
    "json": layout.Json,
    "keyword_frequency": wording.KeywordFrequency,
    "keywords_absent": wording.KeywordsAbsent,
    "keywords_present": wording.KeywordsPresent,
    "letter_frequency": wording.LetterFrequency,
    "lower_case": wording.LowerCase,
    "no_commas": wording.NoCommas,
    "numbered": layout.Numbered,
    "one_of": layout.OneOf,
    "paragraphs": length.Paragraphs,
    "placeholders": layout.Placeholders,
    "postscript": layout.Postscript,
    "quotation": layout.Quotation,
    "regex": wording.Regex,
    "repeat_prompt": layout.RepeatPrompt,
    "script": wording.Script,
    "sections": layout.Sections,
    "sentences": length.Sentences,
    "starts_with": layout.StartsWith,
    "think_tags": layout.ThinkTags,
    "title": layout.Title,
    "two_responses": layout.TwoResponses,
    "upper_case": wording.UpperCase,
    "words": length.Words,
}
