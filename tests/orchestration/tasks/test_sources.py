"""What every task source promises, asked of each of them."""

import json
import random

import pytest

from orchestration.tasks.arithmetic import Arithmetic, OneDigit
from orchestration.tasks.errors import TaskError
from orchestration.tasks.huggingface import HuggingFaceDataset
from orchestration.tasks.jsonl import Jsonl
from orchestration.tasks.reasoning_gym import ReasoningGym
from orchestration.tasks.spec_to_verilog import SpecToVerilog
from orchestration.tasks.verilog_eval import VerilogEval

TRAIN, HELDOUT = 200, 8


@pytest.fixture
def folder(tmp_path):
    """Data for the sources that read files: 60 records, and 40 VerilogEval problems."""
    lines = [json.dumps({"prompt": f"What is {n} + {n}?", "answer": 2 * n}) for n in range(60)]
    (tmp_path / "sums").mkdir()
    (tmp_path / "sums" / "train.jsonl").write_text("\n".join(lines))
    problems = tmp_path / "problems"
    problems.mkdir()
    for number in range(40):
        stem = f"Prob{number:03d}_p"
        (problems / f"{stem}_prompt.txt").write_text(f"Make constant number {number}.\n")
        (problems / f"{stem}_ref.sv").write_text(f"module RefModule(output o); assign o = {number % 2}; endmodule\n")
        (problems / f"{stem}_test.sv").write_text("module tb; endmodule\n")
    return tmp_path


SOURCES = {
    "spec_to_verilog": lambda folder: SpecToVerilog(),
    "arithmetic": lambda folder: Arithmetic(),
    "one_digit": lambda folder: OneDigit(),
    "product": lambda folder: OneDigit(operation="product"),
    "reasoning_gym": lambda folder: ReasoningGym(dataset="basic_arithmetic", options={"min_terms": 2, "max_terms": 3}),
    "jsonl": lambda folder: Jsonl(path=str(folder / "sums" / "train.jsonl"), heldout_fraction=0.3),
    "huggingface": lambda folder: HuggingFaceDataset(path=str(folder / "sums"), heldout_fraction=0.3),
    "verilog_eval": lambda folder: VerilogEval(path=str(folder / "problems"), heldout_fraction=0.4),
}


@pytest.fixture(params=SOURCES)
def make(request, folder, monkeypatch):
    """Builds the same source anew at every call."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(folder / "cache"))
    return lambda: SOURCES[request.param](folder)


def test_no_training_task_is_held_out(make):
    """The training stream and the held-out list share neither a prompt nor an id."""
    source = make()
    held = source.heldout_tasks(HELDOUT)
    train = [source.train_task(index, seed) for seed in (0, 1) for index in range(TRAIN)]
    assert not {task.id for task in held} & {task.id for task in train}
    assert not {task.prompt for task in held} & {task.prompt for task in train}


def test_a_training_task_depends_on_index_and_seed_alone(make):
    """Asking a new source, in another order, after other questions, gives the same tasks; another seed gives others."""
    first, second = make(), make()
    order = random.Random(0).sample(range(TRAIN), 30)
    backwards = {index: second.train_task(index, 7) for index in reversed(order)}
    second.heldout_tasks(2)
    assert {index: first.train_task(index, 7) for index in order} == backwards
    assert [first.train_task(index, 8) for index in order] != [first.train_task(index, 7) for index in order]


def test_the_heldout_list_is_fixed(make):
    """A shorter list is the beginning of a longer one, without repetition, whatever was trained before."""
    source = make()
    long = source.heldout_tasks(HELDOUT)
    source.train_task(3, 5)
    assert source.heldout_tasks(3) == long[:3]
    assert len({task.id for task in long}) == HELDOUT


def test_equal_prompts_and_equal_ids_are_the_same_thing(make):
    """An id stands for exactly one prompt."""
    source = make()
    tasks = [source.train_task(index, 0) for index in range(60)]
    assert (
        len({task.id for task in tasks})
        == len({task.prompt for task in tasks})
        == len({(t.id, t.prompt) for t in tasks})
    )


def test_a_reference_survives_json(make):
    """The journal stores references as JSON, so they come back as they were."""
    reference = dict(make().train_task(0, 0).reference)
    assert json.loads(json.dumps(reference)) == reference


def test_a_source_with_its_data_in_place_passes_its_check(make):
    """`check` is silent when nothing is wrong."""
    make().check()


@pytest.mark.parametrize("name", ["one_digit", "jsonl", "verilog_eval"])
def test_asking_for_more_heldout_tasks_than_exist_is_refused(name, folder):
    """Too few held-out tasks is an error that says how many there are, never a shorter list."""
    with pytest.raises(TaskError, match=r"5000 held-out tasks were asked for but"):
        SOURCES[name](folder).heldout_tasks(5000)
