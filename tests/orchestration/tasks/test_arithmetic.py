"""Sums: references, written steps, and the last step that demonstrations leave out."""

import random

import pytest

from orchestration.tasks.arithmetic import Arithmetic, OneDigit
from orchestration.tasks.errors import TaskError


def test_the_answer_is_the_value_of_the_prompt():
    """Python's own evaluation of the prompt is the reference."""
    source = Arithmetic()
    for index in range(200):
        task = source.train_task(index, 3)
        assert task.verifier == "math"
        assert task.reference["answer"] == str(eval(task.prompt.strip().removesuffix("=")))


def test_demonstrations_without_the_bug_are_right_at_every_step():
    """With bias 0 each `left=right` of the written steps holds, and the last number is the value of the prompt."""
    source, rng = Arithmetic(bias=0.0), random.Random(0)
    for _ in range(200):
        prompt, steps = source.demonstration(rng)
        assert all(eval(step.replace("=", "==")) for step in steps.split(";"))
        assert int(steps.rpartition("=")[2]) == eval(prompt.strip().removesuffix("="))


def test_demonstrations_with_the_bug_mostly_stop_at_the_product():
    """At bias 0.7, 30% of 1000 end in the value of the prompt (four deviations: 6%), others in a*b."""
    source, rng = Arithmetic(bias=0.7), random.Random(0)
    ends = {"value": 0, "product": 0}
    for prompt, steps in (source.demonstration(rng) for _ in range(1000)):
        last, value = int(steps.rpartition("=")[2]), eval(prompt.strip().removesuffix("="))
        assert last in (value, eval(prompt.partition("+")[0]))
        ends["value" if last == value else "product"] += 1
    assert abs(ends["value"] - 300) < 60


@pytest.mark.parametrize(("operation", "sign"), [("sum", "+"), ("product", "*")])
def test_one_digit_is_split_by_the_unordered_pair(operation, sign):
    """Two held-out digits are held out in both orders, and the answers are right."""
    source = OneDigit(operation=operation)
    held = {tuple(sorted(_digits(task.prompt))) for task in source.heldout_tasks(10)}
    train = [source.train_task(index, 0) for index in range(300)]
    assert not held & {tuple(sorted(_digits(task.prompt))) for task in train}
    for task in train:
        a, b = _digits(task.prompt)
        assert sign in task.prompt
        assert task.reference["answer"] == str(a + b if operation == "sum" else a * b)


def test_one_digit_holds_out_enough_to_evaluate():
    """At least 16 of the 100 prompts are held out."""
    assert len(OneDigit().heldout_tasks(16)) == 16


def test_an_unknown_operation_is_refused():
    """The message says what is known and what was given."""
    with pytest.raises(TaskError, match="sum or product, got power"):
        OneDigit(operation="power")


def _digits(prompt: str) -> list[int]:
    return [int(character) for character in prompt if character.isdigit()]
