"""Finite sets: split once, walked in a new order every epoch."""

import pytest

from orchestration.tasks.errors import TaskError
from orchestration.tasks.finite import FiniteTasks
from orchestration.tasks.split import fingerprint
from orchestration.tasks.task import Task


def task(text: str, answer: str = "1") -> Task:
    return Task(id=fingerprint(text), prompt=text, verifier="math", reference={"answer": answer})


TASKS = [task(f"question {number}") for number in range(50)]


def test_a_task_repeats_only_in_the_next_epoch():
    """Each stretch of len(train) indices holds every training task once, in an order of its own."""
    finite = FiniteTasks.split("shelf", TASKS, 0.2)
    size = len(finite.train)
    epochs = [[finite.train_task(epoch * size + i, 0).id for i in range(size)] for epoch in range(3)]
    assert all(set(epoch) == {task.id for task in finite.train} for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_equal_prompts_are_one_task():
    """A prompt that comes twice keeps its first reference and counts once, so it cannot be on both sides."""
    finite = FiniteTasks.split("shelf", [*TASKS, task("question 3 ", answer="2")], 0.2)
    assert len(finite.train) + len(finite.heldout) == 50
    assert all(one.reference["answer"] == "1" for one in (*finite.train, *finite.heldout))


def test_a_given_split_wins_over_the_training_file():
    """A training prompt that the held-out file also has is not trained on."""
    finite = FiniteTasks.given("shelf", TASKS, [TASKS[4], task("another")])
    assert TASKS[4] not in finite.train
    assert len(finite.train) == 49
    assert {one.prompt for one in finite.heldout} == {"question 4", "another"}


def test_nothing_left_to_train_on_is_refused():
    """The message names the source."""
    with pytest.raises(TaskError, match="shelf leaves no task for training"):
        FiniteTasks.given("shelf", TASKS[:2], TASKS[:2])
