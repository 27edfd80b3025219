"""Task source: any generator of the `reasoning_gym` package by name, with that generator's own options.

generator(seed, size)[entry] --> {"question", "answer", "metadata"} --> Task; its own `score_answer` judges the response
"""

import difflib
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from orchestration.tasks.errors import TaskError
from orchestration.tasks.split import check_fraction, fingerprint, is_heldout
from orchestration.tasks.task import Task

if TYPE_CHECKING:
    from reasoning_gym.dataset import ProceduralDataset

ENTRIES = 2**40  # a generator computes entry i from seed + i, so its size costs nothing
ENTRIES_PER_INDEX = 64  # candidates for one training task; all of them held out has probability fraction ** 64
HELDOUT_DRAWS_PER_TASK = 1000
SEED_SPACE = 2**31


@dataclass(frozen=True, kw_only=True)
class ReasoningGym:
    """An endless stream from one reasoning_gym generator. Implements TaskSource.

    dataset           name of the generator, such as basic_arithmetic, countdown or propositional_logic
    options           of the generator (its config's fields), without seed and size
    heldout_fraction  of all questions, by hash
    instruction       appended to every question after a blank line
    """

    dataset: str
    options: Mapping[str, Any] = field(default_factory=dict)
    heldout_fraction: float = 0.1
    instruction: str = "Put the final answer between <answer> and </answer>."
    max_tokens: int = 512
    chat: bool = True

    def __post_init__(self) -> None:
        check_fraction(type(self).__name__, self.heldout_fraction)

    def check(self) -> None:
        """Draw one entry now. Raises TaskError for an unknown name or option, or entries that JSON would change."""
        generator = self._generator("check")
        entry = generator[0]
        if entry["answer"] is None:
            return
        before, after = (generator.score_answer(entry["answer"], e) for e in (entry, json.loads(json.dumps(entry))))
        if before != after:
            raise TaskError(
                f"reasoning_gym {self.dataset!r} cannot be used: its entries do not survive JSON (tuples in metadata)"
            )

    def train_task(self, index: int, seed: int) -> Task:
        generator = self._generator(f"train/{seed}")
        for number in range(index * ENTRIES_PER_INDEX, (index + 1) * ENTRIES_PER_INDEX):
            entry = generator[number]
            if not is_heldout(entry["question"], self.heldout_fraction):
                return self._task(entry)
        raise TaskError(
            f"reasoning_gym {self.dataset!r}: {ENTRIES_PER_INDEX} draws in a row are held out at"
            f" heldout_fraction={self.heldout_fraction}: lower it"
        )

    def heldout_tasks(self, count: int) -> list[Task]:
        generator = self._generator("heldout")
        found: dict[str, Task] = {}
        for number in range(count * HELDOUT_DRAWS_PER_TASK):
            entry = generator[number]
            if is_heldout(entry["question"], self.heldout_fraction):
                task = self._task(entry)
                found.setdefault(task.id, task)
            if len(found) == count:
                return list(found.values())
        raise TaskError(
            f"{count} held-out tasks were asked for but reasoning_gym {self.dataset!r} gave {len(found)} in"
            f" {count * HELDOUT_DRAWS_PER_TASK} draws: evaluate on fewer, or raise heldout_fraction"
        )

    def _task(self, entry: Mapping[str, Any]) -> Task:
        return Task(
            id=f"{self.dataset}-{fingerprint(entry['question'])}",
            prompt=f"{entry['question']}\n\n{self.instruction}".strip(),
            verifier="reasoning_gym",
            reference={"dataset": self.dataset, "entry": json.loads(json.dumps(entry))},
        )

    def _generator(self, purpose: str) -> "ProceduralDataset":
        return _generator(self.dataset, json.dumps(dict(self.options), sort_keys=True), purpose)


@lru_cache(maxsize=4)
def _generator(dataset: str, options: str, purpose: str) -> "ProceduralDataset":
    import reasoning_gym  # a second, and only this source needs it
    from reasoning_gym.factory import DATASETS

    if dataset not in DATASETS:
        raise TaskError(f"reasoning_gym has no generator {dataset!r}{_nearest(dataset, DATASETS)}")
    seed = random.Random(f"reasoning_gym/{purpose}").randrange(SEED_SPACE)
    try:
        return reasoning_gym.create_dataset(dataset, seed=seed, size=ENTRIES, **json.loads(options))
    except (TypeError, ValueError, AssertionError) as error:
        raise TaskError(f"reasoning_gym {dataset!r} refuses the options {options}: {error}") from error


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return (
        f": did you mean {' or '.join(close)}?"
        if close
        else f": it has {len(known)}, for example {', '.join(sorted(known)[:3])}"
    )
