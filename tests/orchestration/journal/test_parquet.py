"""The export holds what the journal holds, row for row, and appears only when it is whole."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from orchestration import actions, events
from orchestration.cli import main
from orchestration.errors import JournalError
from orchestration.journal import Journal, parquet
from tests.orchestration.journal.records import rollout, verdict


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A run folder's journal: task 7 trained, task 8 rejected, task 9 drawn; two responses each."""
    (tmp_path / "config.yaml").write_text("name: test\n")
    file = tmp_path / "journal.sqlite"
    with Journal.open(file) as journal:
        journal.resume(4)
        for group, task in enumerate((7, 8, 9)):
            journal.start([actions.StartGroup(group=group, task_index=task, version=3, worker="a", attempt=1)])
            rollouts = [rollout(index, (3, 3, 4), full=task == 8) for index in range(2)]
            journal.add_draw(
                group=group, attempt=1, task_index=task, task_id=f"t{task}", prompt="the prompt", rollouts=rollouts
            )
            journal.record(events.GroupFinished(group=group, attempt=1, min_version=3))
            if task < 9:
                verdicts = [verdict(0.25), verdict(1.0)]
                journal.add_verdicts(group=group, attempt=1, verdicts=verdicts, reward_mean=0.6)
                verdicts_in = events.VerdictsArrived if task == 7 else events.GroupRejected
                journal.record(verdicts_in(group=group, attempt=1))
        journal.start([actions.Train(step=4, groups=(0,))])
        journal.record(events.StepTrained(version=5))
    return file


@pytest.mark.parametrize("batch_bytes", [1, 1 << 26])
def test_every_response_is_a_row(path: Path, tmp_path: Path, monkeypatch, batch_bytes: int) -> None:
    """With task, verdict and how each token was drawn, whether it is written row by row or at once."""
    monkeypatch.setattr(parquet, "BATCH_BYTES", batch_bytes)
    assert parquet.export_rollouts(path, tmp_path / "out.parquet") == 6
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [(row["step"], row["group"], row["task"], row["sample"]) for row in rows] == [
        *((4, 0, 7, 0), (4, 0, 7, 1)),
        *((None, 1, 8, 0), (None, 1, 8, 1)),
        *((None, 2, 9, 0), (None, 2, 9, 1)),
    ]
    assert [row["rejected"] for row in rows] == [False, False, True, True, False, False]
    assert [row["reward"] for row in rows] == [0.25, 1.0, 0.25, 1.0, None, None]
    plain, full = rows[1], rows[3]
    expected = rollout(1, (3, 3, 4), full=True)
    for row in (plain, full):
        assert (row["prompt"], row["prompt_ids"], row["text"]) == ("the prompt", [5, 6], expected.text)
        assert row["versions"] == [3, 3, 4]
        for name in ("response_ids", "sampler_logprobs", "temperatures", "entropies"):
            assert row[name] == getattr(expected, name).tolist()
    assert plain["policy_drawn"] is plain["kept_ids"] is plain["head_logprobs"] is None
    assert full["policy_drawn"] == [True, False, True]
    assert (full["kept_ids"], full["kept_counts"]) == (list(range(6)), [2, 2, 2])
    assert (full["head_changes"], full["drafted_tokens"]) == ([False, True, False], 9)
    assert (full["status"], json.loads(full["components"])) == ("scored", {"compiles": 1.0})
    assert rows[5]["status"] is None


def test_the_command_writes_into_the_run_folder_beside_a_running_run(path: Path, capsys) -> None:
    """The journal's lock does not keep readers out."""
    with Journal.open(path):
        assert main(["export-rollouts", str(path.parent)]) == 0
    assert capsys.readouterr().out.endswith("rollouts.parquet: 6 rollouts\n")
    assert pq.read_metadata(path.parent / "rollouts.parquet").num_rows == 6


def test_an_export_that_cannot_be_made_is_one_sentence_and_leaves_no_file(path: Path, tmp_path: Path, capsys) -> None:
    """No run, no journal, nothing kept, nowhere to write."""
    with Journal.open(path, keep_rollouts=0) as journal:
        journal.resume(0)  # nothing of versions 3 and 4 is left
    with pytest.raises(JournalError, match="keeps no rollouts: those of trained steps go after run.keep_rollouts"):
        parquet.export_rollouts(path, tmp_path / "out.parquet")
    with pytest.raises(JournalError, match="cannot be written .* name another file with --to"):
        parquet.export_rollouts(path, tmp_path / "no" / "out.parquet")
    path.unlink()
    assert main(["export-rollouts", str(tmp_path)]) == 1
    assert "there is no journal" in capsys.readouterr().err
    assert main(["export-rollouts", str(tmp_path / "logs")]) == 2
    path.write_text("what is this? " * 100)
    with pytest.raises(JournalError, match="cannot be read"):
        parquet.export_rollouts(path, tmp_path / "out.parquet")
    assert not list(tmp_path.glob("*.parquet")) + list(tmp_path.glob(".writing*"))
