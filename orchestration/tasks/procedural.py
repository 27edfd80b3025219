"""Generated tasks on their way to training or evaluation: draw, ask the split, draw again on the wrong side.

random.Random(kind, seed, index) --draw--> (task, text that decides the split) --is_heldout--> train | held-out
"""

import random
from collections.abc import Callable

from orchestration.tasks.errors import TaskError
from orchestration.tasks.split import is_heldout
from orchestration.tasks.task import Task

Draw = Callable[[random.Random], Task]
DecidingText = Callable[[Task], str]

MAX_DRAWS_PER_TASK = 10_000  # far beyond bad luck at any sensible fraction: the space is exhausted


def prompt_text(task: Task) -> str:
    """The text that decides the split, where the source has no more canonical one."""
    return task.prompt


def train_task(draw: Draw, index: int, seed: int, fraction: float, deciding: DecidingText = prompt_text) -> Task:
    """The index-th training task: a pure function of its arguments. Raises TaskError when every draw is held out."""
    rng = random.Random(f"train/{seed}/{index}")  # a string seeds through SHA-512: the same on every platform
    for _ in range(MAX_DRAWS_PER_TASK):
        task = draw(rng)
        if not is_heldout(deciding(task), fraction):
            return task
    raise TaskError(f"no training task in {MAX_DRAWS_PER_TASK} draws at heldout_fraction={fraction}: lower it")


def heldout_tasks(draw: Draw, count: int, fraction: float, deciding: DecidingText = prompt_text) -> list[Task]:
    """`count` different held-out tasks, a prefix of any longer list. Raises TaskError where there are not so many."""
    rng = random.Random("heldout")
    found: dict[str, Task] = {}
    draws_since_last = 0
    while len(found) < count:
        task = draw(rng)
        draws_since_last += 1
        if task.id not in found and is_heldout(deciding(task), fraction):
            found[task.id] = task
            draws_since_last = 0
        if draws_since_last == MAX_DRAWS_PER_TASK:
            raise TaskError(
                f"{count} held-out tasks were asked for but only {len(found)} exist at heldout_fraction={fraction}:"
                " raise the fraction or evaluate on fewer"
            )
    return list(found.values())
