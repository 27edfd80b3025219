"""VerilogEval folders: three files a problem."""

from pathlib import Path

import pytest

from orchestration.tasks.errors import TaskDataError
from orchestration.tasks.verilog_eval import VerilogEval

REAL = Path(__file__).parents[4] / "shared" / "data" / "verilog_eval_v2" / "spec_to_rtl"


def problem(folder: Path, stem: str, kinds: tuple[str, ...] = ("prompt.txt", "ref.sv", "test.sv")) -> None:
    for kind in kinds:
        (folder / f"{stem}_{kind}").write_text(f"{stem} {kind}\n")


def test_a_problem_is_read_from_its_three_files(tmp_path):
    """Prompt, reference and testbench land where the verilog verifier looks for them."""
    for number in range(4):
        problem(tmp_path, f"Prob00{number}_thing")
    source = VerilogEval(path=str(tmp_path), heldout_fraction=0.01, instruction="Go.")
    tasks = {task.prompt: task for task in (source.train_task(index, 0) for index in range(4))}
    task = tasks["Prob002_thing prompt.txt\n\nGo."]
    assert task.id.startswith("Prob002_thing-")
    assert task.verifier == "verilog"
    assert task.reference == {
        "reference_source": "Prob002_thing ref.sv\n",
        "testbench": "Prob002_thing test.sv\n",
        "top_module": "TopModule",
    }


def test_a_missing_testbench_is_named(tmp_path):
    """The file that is absent is in the message."""
    problem(tmp_path, "Prob001_zero", kinds=("prompt.txt", "ref.sv"))
    with pytest.raises(TaskDataError, match="Prob001_zero_test.sv cannot be read"):
        VerilogEval(path=str(tmp_path)).check()


def test_a_folder_without_problems_is_refused(tmp_path):
    """The message says what such a folder holds."""
    with pytest.raises(TaskDataError, match="holds no VerilogEval problem"):
        VerilogEval(path=str(tmp_path)).check()


@pytest.mark.skipif(not REAL.is_dir(), reason="needs VerilogEval v2 in ../shared/data")
def test_the_real_problems_load():
    """Every problem of the real set is read, and both sides of the split have some."""
    source = VerilogEval(path=str(REAL))
    source.check()
    assert source.heldout_tasks(8)
    assert "TopModule" in source.train_task(0, 0).prompt
