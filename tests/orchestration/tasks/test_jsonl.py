"""JSONL files: what is read, and what is said about a file or line that cannot be."""

import json

import pytest

from orchestration.tasks.errors import TaskDataError
from orchestration.tasks.jsonl import Jsonl

GSM8K = {"prompt_key": "question", "answer_mark": "####", "instruction": ""}


def written(tmp_path, *lines: str):
    file = tmp_path / "shelf.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def everything(source: Jsonl, count: int) -> dict[str, str]:
    """prompt -> answer of a source all of whose `count` tasks are seen in one epoch, held-out ones included."""
    tasks = [source.train_task(index, 0) for index in range(count)]
    for held in range(count, 0, -1):
        try:
            tasks += source.heldout_tasks(held)
            break
        except Exception:
            continue
    return {task.prompt: task.reference["answer"] for task in tasks}


def test_gsm8k_answers_follow_the_last_mark(tmp_path):
    """The reference is what follows the last '####', the written solution is not used."""
    file = written(
        tmp_path,
        json.dumps({"question": "How many?", "answer": "Half of #### is 36.\nTwice that.\n#### 72"}),
        json.dumps({"question": "How much?", "answer": "#### 1,000"}),
    )
    assert everything(Jsonl(path=str(file), **GSM8K), 2) == {"How many?": "72", "How much?": "1,000"}


def test_prompt_and_answer_fields_with_an_instruction(tmp_path):
    """Numbers are taken as answers, blank lines are skipped, the instruction follows after a blank line."""
    file = written(tmp_path, '{"prompt": "6 * 7?", "answer": 42}', "", '{"prompt": "é?", "answer": "e"}')
    source = Jsonl(path=str(file), instruction="Think.")
    assert everything(source, 2) == {"6 * 7?\n\nThink.": "42", "é?\n\nThink.": "e"}


def test_a_heldout_file_is_the_held_out_side(tmp_path):
    """With a heldout_path nothing of the training file is held out."""
    train = written(tmp_path, *(json.dumps({"prompt": f"{n}?", "answer": n}) for n in range(30)))
    test = tmp_path / "test.jsonl"
    test.write_text('{"prompt": "new?", "answer": "1"}')
    source = Jsonl(path=str(train), heldout_path=str(test), instruction="")
    assert [task.prompt for task in source.heldout_tasks(1)] == ["new?"]
    assert len({source.train_task(index, 0).prompt for index in range(30)}) == 30


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"question": "?", "answer": ', "line 2 is not JSON: .* column"),
        ('["question"]', "line 2: expected an object"),
        ('{"answer": "#### 3"}', "line 2: field 'question' is absent, the fields are 'answer'"),
        ('{"question": "", "answer": "#### 3"}', "line 2: field 'question' must be a non-empty text"),
        ('{"question": "?", "answer": "three"}', "line 2: field 'answer' must end with '#### <answer>'"),
        ('{"question": "?", "answer": null}', "line 2: field 'answer' must be a non-empty text or a number, got None"),
        ('{"question": "?", "answer": "x ####  "}', "line 2: field 'answer' must end with"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, line, complaint):
    """The message names the file and the number of the line, and says what was expected."""
    file = written(tmp_path, '{"question": "fine?", "answer": "#### 1"}', line)
    with pytest.raises(TaskDataError, match=f"shelf.jsonl {complaint}"):
        Jsonl(path=str(file), **GSM8K).check()


def test_a_missing_file_is_one_sentence(tmp_path):
    """A path that does not exist is named, with what to set."""
    with pytest.raises(TaskDataError, match=r"nowhere.jsonl cannot be read: No such file.*task\.path") as caught:
        Jsonl(path=str(tmp_path / "nowhere.jsonl")).check()
    assert "\n" not in str(caught.value)


def test_an_empty_file_is_refused(tmp_path):
    """No line at all is an error, not an endless wait for a task."""
    with pytest.raises(TaskDataError, match="is empty"):
        Jsonl(path=str(written(tmp_path, ""))).check()


def test_a_file_is_read_at_first_use_only(tmp_path):
    """Building the source does not touch the disk, so a config can be checked without its data."""
    Jsonl(path=str(tmp_path / "nowhere.jsonl"))
