"""Hugging Face data sets: from a local folder, with a split of their own or ours."""

import json

import pytest

from orchestration.tasks.errors import TaskDataError
from orchestration.tasks.huggingface import HuggingFaceDataset


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A data set of two splits with columns of its own."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "puzzles"
    data.mkdir()
    for split, numbers in (("train", range(20)), ("test", range(100, 105))):
        rows = [json.dumps({"problem": f"{number} + 1?", "solution": number + 1}) for number in numbers]
        (data / f"{split}.jsonl").write_text("\n".join(rows))
    return data


COLUMNS = {"prompt_key": "problem", "answer_key": "solution", "instruction": ""}


def test_columns_and_splits_by_name(folder):
    """Training comes from one split and held-out tasks from the other, with the named columns."""
    source = HuggingFaceDataset(path=str(folder), heldout_split="test", **COLUMNS)
    assert {task.prompt for task in source.heldout_tasks(5)} == {f"{number} + 1?" for number in range(100, 105)}
    train = [source.train_task(index, 0) for index in range(20)]
    assert {task.prompt: task.reference["answer"] for task in train} == {f"{n} + 1?": str(n + 1) for n in range(20)}


def test_an_absent_data_set_is_one_sentence(tmp_path):
    """The name, split and what to set are in one line."""
    with pytest.raises(TaskDataError, match=r"nothing.*split 'train'.*cannot be loaded.*task\.path") as caught:
        HuggingFaceDataset(path=str(tmp_path / "nothing")).check()
    assert "\n" not in str(caught.value)


def test_an_absent_column_is_named(folder):
    """The row and the columns there are, are named."""
    with pytest.raises(TaskDataError, match="row 0: field 'prompt' is absent, the fields are 'problem', 'solution'"):
        HuggingFaceDataset(path=str(folder)).check()
