"""reasoning_gym: generators by name, scored through their own judge, refused with a sentence."""

import pytest
import reasoning_gym

from orchestration.tasks.errors import TaskError
from orchestration.tasks.reasoning_gym import ReasoningGym


@pytest.mark.parametrize("name", ["basic_arithmetic", "countdown", "spell_backward"])
def test_the_reference_is_enough_to_score_with(name):
    """The generator's own judge gives 1 to the entry's answer, from the reference alone."""
    task = ReasoningGym(dataset=name).train_task(5, 0)
    assert task.verifier == "reasoning_gym"
    assert task.reference["dataset"] == name
    entry = task.reference["entry"]
    assert task.prompt.startswith(entry["question"].strip())
    assert reasoning_gym.get_score_answer_fn(name)(entry["answer"], entry) == 1.0


def test_options_reach_the_generator():
    """A generator made for one digit gives numbers of one digit."""
    options = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1, "operators": ["+"]}
    task = ReasoningGym(dataset="basic_arithmetic", options=options).train_task(0, 0)
    assert task.reference["entry"]["metadata"]["num_digits"] == 1


def test_an_unknown_generator_suggests_its_nearest():
    """A misspelt name is answered with names that exist."""
    with pytest.raises(TaskError, match="no generator 'countdwn': did you mean countdown"):
        ReasoningGym(dataset="countdwn").check()


def test_an_unknown_option_is_named():
    """An option that the generator does not have is in the message."""
    with pytest.raises(TaskError, match="refuses the options .*colour"):
        ReasoningGym(dataset="countdown", options={"colour": 1}).check()


def test_entries_that_json_would_change_are_refused_early():
    """rearc keeps tuples in its metadata and scores lists as wrong, so training on it would teach nothing."""
    with pytest.raises(TaskError, match="do not survive JSON"):
        ReasoningGym(dataset="rearc").check()
