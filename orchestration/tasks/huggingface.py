"""Task source: a data set that the `datasets` library loads, from a folder or by name, with your own column names."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from orchestration.tasks.errors import TaskDataError
from orchestration.tasks.finite import FiniteSource, FiniteTasks
from orchestration.tasks.jsonl import BOXED
from orchestration.tasks.records import RecordFormat
from orchestration.tasks.task import Task

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True, kw_only=True)
class HuggingFaceDataset(FiniteSource):
    """Prompts and answers from a Hugging Face data set, loaded at first use. Implements TaskSource.

    path              a folder (data files, or from `save_to_disk`) or a name on the hub, which needs HF_HUB_OFFLINE=0
    name              of the configuration, "" where there is one
    split             of the training tasks
    heldout_split     of the held-out tasks; "" holds out a part of `split`
    heldout_fraction  of the prompts of `split`, by hash, where there is no heldout_split
    prompt_key, answer_key, answer_mark, instruction, verifier   see RecordFormat
    """

    path: str
    name: str = ""
    split: str = "train"
    heldout_split: str = ""
    heldout_fraction: float = 0.1
    prompt_key: str = "prompt"
    answer_key: str = "answer"
    answer_mark: str = ""
    instruction: str = BOXED
    verifier: str = "math"
    max_tokens: int = 512
    chat: bool = True

    @cached_property
    def _tasks(self) -> FiniteTasks:
        train = self._rows(self.split)
        if self.heldout_split:
            return FiniteTasks.given(self.path, train, self._rows(self.heldout_split))
        return FiniteTasks.split(self.path, train, self.heldout_fraction)

    def _rows(self, split: str) -> list[Task]:
        record_format = RecordFormat(
            prompt_key=self.prompt_key,
            answer_key=self.answer_key,
            answer_mark=self.answer_mark,
            instruction=self.instruction,
            verifier=self.verifier,
        )
        source = Path(self.path).name
        return [
            record_format.task(source, row, f"data set {self.path} split {split} row {number}")
            for number, row in enumerate(self._load(split))
        ]

    def _load(self, split: str) -> "Dataset":
        import datasets  # two seconds, and only this source needs it

        try:
            if (Path(self.path).expanduser() / "dataset_dict.json").is_file():
                return datasets.load_from_disk(str(Path(self.path).expanduser()))[split]
            return datasets.load_dataset(self.path, self.name or None, split=split)
        except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:
            raise TaskDataError(
                f"data set {self.path!r} (configuration {self.name or 'default'!r}, split {split!r}) cannot be loaded:"
                f" {_one_line(error)}; task.path is a local folder, or a name on the hub when HF_HUB_OFFLINE=0"
            ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
