"""Constraints on the form of the answer: lists, sections, titles, frames."""

import json
import re
from dataclasses import dataclass, field

from reward.instructions.answer import Answer
from reward.instructions.constraint import Count, needs_text
from reward.thinking import THINK_END, THINK_START

NUMBERED = re.compile(r"\d{1,9}[.)]\s")
SINGLE_STARS, DOUBLE_STARS = re.compile(r"\*[^\n*]*\*"), re.compile(r"\*\*[^\n*]*\*\*")
FENCE, FENCE_STARTS = "```", ("```json", "```Json", "```JSON", "```")
RESPONSE_DIVIDER = "******"


@dataclass(frozen=True, kw_only=True)
class Bullets(Count):
    """Lines that begin with * or - and say something. IFEval detectable_format:number_bullet_lists, where an empty one
    and the rule --- count too.
    """

    def count(self, answer: Answer) -> int:
        lines = (line.strip() for line in answer.lines)
        return sum(len(line) > 1 and line[0] in "*-" and line[1] != line[0] for line in lines)


@dataclass(frozen=True, kw_only=True)
class Numbered(Count):
    """Lines that begin with `1.` or `1)` and a space; the numbers need not be in order."""

    def count(self, answer: Answer) -> int:
        return sum(NUMBERED.match(line.lstrip()) is not None for line in answer.lines)


@dataclass(frozen=True, kw_only=True)
class Highlights(Count):
    """*so* and **so**, within a line, not empty. IFEval detectable_format:number_highlighted_sections."""

    def count(self, answer: Answer) -> int:
        single = sum(bool(found.strip("*").strip()) for found in SINGLE_STARS.findall(answer.text))
        return single + sum(bool(found[2:-2].strip()) for found in DOUBLE_STARS.findall(answer.text))


@dataclass(frozen=True, kw_only=True)
class Sections(Count):
    """`Section 1` and so on, anywhere. IFEval detectable_format:multiple_sections."""

    marker: str = "Section"

    def __post_init__(self) -> None:
        Count.__post_init__(self)
        needs_text(marker=self.marker)

    def count(self, answer: Answer) -> int:
        return len(re.findall(rf"{re.escape(self.marker)}\s?\d+", answer.text))


@dataclass(frozen=True, kw_only=True)
class Placeholders(Count):
    """[so], within a line. IFEval detectable_content:number_placeholders, where an empty [] is one too."""

    def count(self, answer: Answer) -> int:
        return sum(in_brackets(line) for line in answer.lines)


def in_brackets(line: str) -> int:
    count = position = 0
    while (start := line.find("[", position)) >= 0 and (end := line.find("]", start)) >= 0:
        count += bool(line[start + 1 : end].strip())
        position = end + 1
    return count


@dataclass(frozen=True, kw_only=True)
class Title:
    """<<so>>, within a line, not empty. IFEval detectable_format:title."""

    def __call__(self, answer: Answer) -> bool:
        return any(
            start < end and line[start:end].strip("<> \t")
            for line in answer.lines
            if (start := line.find("<<")) >= 0 and (end := line.rfind(">>")) >= 0
        )


@dataclass(frozen=True, kw_only=True)
class Postscript:
    """The marker occurs, in any case; a space may follow a dot inside it. IFEval detectable_content:postscript."""

    marker: str = "P.S."

    def __post_init__(self) -> None:
        needs_text(marker=self.marker)

    def __call__(self, answer: Answer) -> bool:
        pattern = r"\.\s?".join(re.escape(part) for part in self.marker.strip().lower().split(".")).removesuffix(r"\s?")
        return re.search(pattern, answer.lower) is not None


@dataclass(frozen=True, kw_only=True)
class Json:
    """The whole answer, but for a code fence, is JSON; with `keys`, an object that has them. IFEval json_format."""

    keys: list[str] = field(default_factory=list)

    def __call__(self, answer: Answer) -> bool:
        text = answer.text
        start = next((start for start in FENCE_STARTS if text.startswith(start)), "")
        try:
            value = json.loads(text.removeprefix(start).removesuffix(FENCE), parse_constant=refuse)
        except (ValueError, RecursionError):
            return False
        return not self.keys or (isinstance(value, dict) and all(key in value for key in self.keys))


def refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


@dataclass(frozen=True, kw_only=True)
class RepeatPrompt:
    """The answer begins with the prompt, in any case, and goes on. IFEval combination:repeat_prompt need not go on."""

    prompt: str

    def __post_init__(self) -> None:
        needs_text(prompt=self.prompt)

    def __call__(self, answer: Answer) -> bool:
        prompt = self.prompt.strip().lower()
        return answer.lower.startswith(prompt) and len(answer.lower) > len(prompt)


@dataclass(frozen=True, kw_only=True)
class StartsWith:
    """The answer begins with a text. IFEval startend:constrained_start, where any line may."""

    text: str

    def __post_init__(self) -> None:
        needs_text(text=self.text)

    def __call__(self, answer: Answer) -> bool:
        return answer.text.startswith(self.text.strip())


@dataclass(frozen=True, kw_only=True)
class EndsWith:
    """The answer ends with a text, in any case, quotation marks after it aside. IFEval startend:end_checker."""

    text: str

    def __post_init__(self) -> None:
        needs_text(text=self.text)

    def __call__(self, answer: Answer) -> bool:
        return answer.lower.strip('"').endswith(self.text.strip().lower())


@dataclass(frozen=True, kw_only=True)
class Quotation:
    """The whole answer is between double quotation marks. IFEval startend:quotation."""

    def __call__(self, answer: Answer) -> bool:
        return len(answer.text) > 1 and answer.text[0] == answer.text[-1] == '"'


@dataclass(frozen=True, kw_only=True)
class OneOf:
    """One of the options occurs. IFEval detectable_format:constrained_response; here not two different ones."""

    options: list[str]

    def __post_init__(self) -> None:
        if not self.options:
            raise ValueError("options is a list of at least one text")
        for option in self.options:
            needs_text(options=option)

    def __call__(self, answer: Answer) -> bool:
        found = {option for option in self.options if option in answer.text}
        return sum(not any(option in other for other in found - {option}) for option in found) == 1


@dataclass(frozen=True, kw_only=True)
class TwoResponses:
    """Two different answers with ****** between them. IFEval combination:two_responses."""

    def __call__(self, answer: Answer) -> bool:
        pieces = [piece.strip() for piece in answer.text.split(RESPONSE_DIVIDER)]
        given = [piece for piece in pieces if piece]
        return all(pieces[1:-1]) and len(given) == 2 and given[0] != given[1]


@dataclass(frozen=True, kw_only=True)
class ThinkTags:
    """<think>reasoning</think>answer: one pair, at the start, neither part empty. The one constraint on the reasoning.

    `opened` says that the prompt's template has written <think> already.
    """

    opened: bool = False

    def __call__(self, answer: Answer) -> bool:
        whole = (THINK_START if self.opened else "") + answer.response.strip()
        if not whole.startswith(THINK_START) or whole.count(THINK_START) != 1 or whole.count(THINK_END) != 1:
            return False
        reasoning, _, rest = whole.removeprefix(THINK_START).partition(THINK_END)
        return bool(reasoning.strip() and rest.strip())
