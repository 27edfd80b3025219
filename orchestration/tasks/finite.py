"""A finite set of tasks on its way to training: split once, then walked in a new seeded order every epoch.

tasks (file order) --equal prompts merged--> --split--> train    [permutation of epoch 0][permutation of epoch 1]...
                                                   └--> held-out, in order of their hashes
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from orchestration.tasks.errors import TaskError
from orchestration.tasks.split import check_fraction, fingerprint, is_heldout
from orchestration.tasks.task import Task

EPOCHS_KEPT = 2  # permutations in memory: a run looks at one epoch, and at the next where they meet


@dataclass(frozen=True, kw_only=True)
class FiniteTasks:
    """The two sides of a finite source. `origin` names it in errors.

    >>> tasks = FiniteTasks.split("shelf.jsonl", everything, fraction=0.1)
    >>> tasks.train_task(len(tasks.train), seed=0)  # the first task of the second epoch
    """

    origin: str
    train: tuple[Task, ...]
    heldout: tuple[Task, ...]

    @classmethod
    def split(cls, origin: str, tasks: Sequence[Task], fraction: float) -> "FiniteTasks":
        """Hold out about `fraction` of the tasks by the hash of their prompts."""
        unique = _unique(tasks)
        return cls._checked(
            origin,
            train=[task for task in unique if not is_heldout(task.prompt, fraction)],
            heldout=[task for task in unique if is_heldout(task.prompt, fraction)],
        )

    @classmethod
    def given(cls, origin: str, train: Sequence[Task], heldout: Sequence[Task]) -> "FiniteTasks":
        """A split that the data brings along; a training prompt that is also held out is left out of training."""
        held = {fingerprint(task.prompt) for task in heldout}
        return cls._checked(
            origin,
            train=[task for task in _unique(train) if fingerprint(task.prompt) not in held],
            heldout=_unique(heldout),
        )

    @classmethod
    def _checked(cls, origin: str, train: Sequence[Task], heldout: Sequence[Task]) -> "FiniteTasks":
        if not train:
            raise TaskError(f"{origin} leaves no task for training: {len(heldout)} are held out and 0 remain")
        return cls(
            origin=origin,
            train=tuple(train),
            heldout=tuple(sorted(heldout, key=lambda task: fingerprint(task.prompt))),
        )

    def train_task(self, index: int, seed: int) -> Task:
        epoch, position = divmod(index, len(self.train))
        return self.train[_permutation(len(self.train), seed, epoch)[position]]

    def heldout_tasks(self, count: int) -> list[Task]:
        if count > len(self.heldout):
            raise TaskError(
                f"{count} held-out tasks were asked for but {self.origin} has {len(self.heldout)}:"
                " evaluate on fewer, or hold out more"
            )
        return list(self.heldout[:count])


class FiniteSource:
    """The TaskSource half that sources of finite data share; a subclass is a dataclass that says how to read `_tasks`.

    `_tasks` is a cached_property: data is read at first use, or by `check`.
    """

    heldout_fraction: float
    _tasks: FiniteTasks

    def __post_init__(self) -> None:
        check_fraction(type(self).__name__, self.heldout_fraction)

    def check(self) -> None:
        """Read everything now. Raises TaskDataError naming what is absent, or where an entry is malformed."""
        _ = self._tasks

    def train_task(self, index: int, seed: int) -> Task:
        return self._tasks.train_task(index, seed)

    def heldout_tasks(self, count: int) -> list[Task]:
        return self._tasks.heldout_tasks(count)


def _unique(tasks: Sequence[Task]) -> list[Task]:
    """The first task of each prompt, in the order given."""
    first: dict[str, Task] = {}
    for task in tasks:
        first.setdefault(fingerprint(task.prompt), task)
    return list(first.values())


@lru_cache(maxsize=EPOCHS_KEPT)
def _permutation(length: int, seed: int, epoch: int) -> tuple[int, ...]:
    order = list(range(length))
    random.Random(f"epoch/{seed}/{epoch}").shuffle(order)
    return tuple(order)
