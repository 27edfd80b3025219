"""Which tasks a run can have judged: some verifiers compare responses, and need those that they compare."""

from collections.abc import Sequence

from orchestration.tasks.errors import TaskError
from orchestration.tasks.task import Task
from reward.groups import ACROSS_TASKS, WITHIN_TASK, asked


def check_judging(train: Sequence[Task], heldout: Sequence[Task]) -> None:
    """Raises TaskError for a task whose verifier compares responses that a run does not draw together."""
    for task in (*train, *heldout):
        if found := sorted(asked(task.verifier, task.reference) & ACROSS_TASKS):
            raise TaskError(
                f"task {task.id} is judged by {found[0]}, which compares responses to several prompts, and a run judges"
                " each prompt's responses by themselves: give it tasks of another verifier"
            )
    for task in heldout:
        if found := sorted(asked(task.verifier, task.reference) & WITHIN_TASK):
            raise TaskError(
                f"held-out task {task.id} is judged by {found[0]}, which compares several responses to a prompt, and"
                " greedy evaluation has one: hold out tasks with answers instead (for jsonl, task.heldout_path)"
            )


def verifiers_of(tasks: Sequence[Task]) -> list[str]:
    """Every verifier that a request of these tasks reaches, the parts of composed ones too."""
    return sorted({name for task in tasks for name in asked(task.verifier, task.reference)})
