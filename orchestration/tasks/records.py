"""One entry of a data set becomes a Task: which fields are read, and where the reference answer is inside them.

prompt_answer   prompt_key and answer_key name two fields; the answer is the reference as it stands
gsm8k           question / answer, the reference is what follows the last '####'
own verifier    the entry names its verifier, or gives its whole reference, or both
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestration.tasks.errors import TaskDataError
from orchestration.tasks.split import fingerprint
from orchestration.tasks.task import Task
from reward.errors import UnusableReference
from reward.references import check_reference

GSM8K_MARK = "####"


@dataclass(frozen=True, kw_only=True)
class RecordFormat:
    """How to read an entry: field names, where the answer is, what is appended to the prompt, and who judges.

    answer_mark   the reference is the text after its last occurrence; "" takes the whole field
    instruction   appended to every prompt after a blank line; "" appends nothing. An entry with its own verifier says
                  in its prompt what it wants
    verifier      of entries that name none
    verifier_key, reference_key   fields of entries that bring their own; "" where no entry does. A reference is an
                  object, as that verifier wants it, and stands in place of the answer
    """

    prompt_key: str
    answer_key: str
    answer_mark: str
    instruction: str
    verifier: str
    verifier_key: str = ""
    reference_key: str = ""

    def task(self, source: str, record: Any, place: str) -> Task:
        """The task of one entry. `place` names the entry in the TaskDataError for a field that is absent or empty."""
        prompt = self._text(record, self.prompt_key, place)
        own = bool(self.verifier_key) and self.verifier_key in record
        verifier = self._text(record, self.verifier_key, place) if own else self.verifier
        if self.reference_key and self.reference_key in record:
            reference = record[self.reference_key]
            if not isinstance(reference, Mapping):
                raise TaskDataError(
                    f"{place}: field {self.reference_key!r} must be an object, as the verifier wants it, got"
                    f" {_short(reference)}; task.reference_key names another field"
                )
        else:
            reference = {"answer": self._answer(record, place)}
        try:
            check_reference(verifier, reference)
        except UnusableReference as error:
            raise TaskDataError(f"{place}: {error}") from error
        if self.instruction and not own:
            prompt = f"{prompt}\n\n{self.instruction}"
        return Task(
            id=f"{source}-{fingerprint(prompt)}",
            prompt=prompt,
            verifier=verifier,
            reference=reference,
        )

    def _answer(self, record: Any, place: str) -> str:
        answer = self._text(record, self.answer_key, place)
        if self.answer_mark:
            _, mark, answer = answer.rpartition(self.answer_mark)
            if not mark or not answer.strip():
                raise TaskDataError(
                    f"{place}: field {self.answer_key!r} must end with '{self.answer_mark} <answer>',"
                    f" got {_short(record)}"
                )
        return answer.strip()

    def _text(self, record: Any, key: str, place: str) -> str:
        if not isinstance(record, Mapping):
            raise TaskDataError(f"{place}: expected an object with fields, got {_short(record)}")
        if key not in record:
            raise TaskDataError(
                f"{place}: field {key!r} is absent, the fields are {', '.join(map(repr, record)) or 'none'}"
            )
        value = record[key]
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str) or not value.strip():
            raise TaskDataError(f"{place}: field {key!r} must be a non-empty text or a number, got {_short(value)}")
        return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
