"""Task source: a JSONL file, one object a line, as in GSM8K or with fields of your own.

{"question": "... How many?", "answer": "... \\n#### 72"}          task=gsm8k
{"prompt": "What is 6 * 7?", "answer": "42"}                       task=jsonl
{"prompt": "Name three colours, in lower case.", "verifier": "instructions",
 "reference": {"constraints": [{"kind": "lower_case"}]}}           task=jsonl, a line with its own verifier
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from orchestration.tasks.errors import TaskDataError
from orchestration.tasks.finite import FiniteSource, FiniteTasks
from orchestration.tasks.records import RecordFormat
from orchestration.tasks.task import Task

BOXED = "Reason step by step and put the final answer within \\boxed{}."


@dataclass(frozen=True, kw_only=True)
class Jsonl(FiniteSource):
    """Prompts and answers from a file, read at first use. Implements TaskSource.

    path              of the training tasks
    heldout_path      of the held-out tasks; "" holds out a part of `path`
    heldout_fraction  of the prompts of `path`, by hash, where there is no heldout_path
    prompt_key, answer_key, answer_mark, instruction, verifier, verifier_key, reference_key   see RecordFormat
    """

    path: str
    heldout_path: str = ""
    heldout_fraction: float = 0.1
    prompt_key: str = "prompt"
    answer_key: str = "answer"
    answer_mark: str = ""
    instruction: str = BOXED
    verifier: str = "math"
    verifier_key: str = "verifier"
    reference_key: str = "reference"
    max_tokens: int = 512
    chat: bool = True

    @cached_property
    def _tasks(self) -> FiniteTasks:
        train = self._read(self.path)
        if self.heldout_path:
            return FiniteTasks.given(self.path, train, self._read(self.heldout_path))
        return FiniteTasks.split(self.path, train, self.heldout_fraction)

    def _read(self, path: str) -> list[Task]:
        record_format = RecordFormat(
            prompt_key=self.prompt_key,
            answer_key=self.answer_key,
            answer_mark=self.answer_mark,
            instruction=self.instruction,
            verifier=self.verifier,
            verifier_key=self.verifier_key,
            reference_key=self.reference_key,
        )
        file = Path(path).expanduser()
        tasks = []
        try:
            with file.open(encoding="utf-8") as lines:
                for number, line in enumerate(lines, start=1):
                    if line.strip():
                        place = f"{file} line {number}"
                        tasks.append(record_format.task(file.stem, _parsed(line, place), place))
        except OSError as error:
            raise TaskDataError(
                f"the task file {file} cannot be read: {error.strerror}; set task.path to a JSONL file"
            ) from error
        except UnicodeDecodeError as error:
            raise TaskDataError(f"the task file {file} is not UTF-8 text: {error}") from error
        if not tasks:
            raise TaskDataError(f"the task file {file} is empty: expected one JSON object a line")
        return tasks


def _parsed(line: str, place: str) -> object:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise TaskDataError(
            f"{place} is not JSON: {error.msg} at column {error.colno}; expected one object a line"
        ) from error
