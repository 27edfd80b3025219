"""The journal says what happened, survives a killed driver, and lets no task be trained twice."""

import re
import signal
import sqlite3
import subprocess
import sys
from collections import deque
from pathlib import Path

import pytest

from orchestration import actions, events
from orchestration.actions import SchedulerState
from orchestration.errors import JournalError
from orchestration.journal import Journal
from orchestration.scheduler import Scheduler, SchedulerConfig
from tests.orchestration.journal.records import rollout, verdict

KILLED_IN_STEP_1 = """
import os, signal, sys
from pathlib import Path
from orchestration import actions, events
from orchestration.journal import Journal

journal = Journal.open(Path(sys.argv[1]))
journal.resume(0)
for group in range(4):
    journal.start([actions.StartGroup(group=group, task_index=group, version=0, worker="a", attempt=1)])
journal.start([actions.Train(step=0, groups=(0, 1))])
journal.record(events.StepTrained(version=1))
journal.start([actions.Train(step=1, groups=(2, 3))])
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


def admit(journal: Journal, group: int, task: int, attempt: int = 1, worker: str = "a") -> None:
    journal.start([actions.StartGroup(group=group, task_index=task, version=0, worker=worker, attempt=attempt)])


def train(journal: Journal, step: int, groups: tuple[int, ...]) -> None:
    journal.start([actions.Train(step=step, groups=groups)])
    journal.record(events.StepTrained(version=step + 1))


def rows(path: Path, query: str) -> list[tuple]:
    """As any SQLite tool sees the file, beside the open journal."""
    reader = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return reader.execute(query).fetchall()
    finally:
        reader.close()


def states(path: Path) -> list[tuple]:
    return rows(path, "SELECT group_id, state, attempts FROM groups ORDER BY lineage, group_id")


def test_a_group_is_followed_from_admission_to_training(path: Path) -> None:
    """Its row tells at each moment where it is, and at the end what trained on it and how it scored."""
    with Journal.open(path) as journal:
        journal.resume(0)
        admit(journal, 0, task=40)
        assert states(path) == [(0, "running", 1)]
        journal.record(events.WorkerLost(worker="a"))
        assert states(path) == [(0, "queued", 1)]
        admit(journal, 0, task=40, attempt=2, worker="b")
        journal.record(events.GroupFinished(group=0, attempt=1, min_version=0))  # late news changes nothing
        assert states(path) == [(0, "running", 2)]
        journal.record(events.GroupFinished(group=0, attempt=2, min_version=0))
        assert states(path) == [(0, "scoring", 2)]
        journal.add_draw(group=0, attempt=2, task_index=40, task_id="nand-7", prompt="p", rollouts=[rollout()])
        journal.add_verdicts(group=0, attempt=2, verdicts=[verdict(0.25)], reward_mean=0.25)
        journal.record(events.VerdictsArrived(group=0, attempt=2))
        assert states(path) == [(0, "scored", 2)]
        journal.start([actions.Train(step=0, groups=(0,))])
        assert journal.trained_tasks() == []
        journal.record(events.StepTrained(version=1))
        assert journal.trained_tasks() == [(0, 40)]
        found = rows(
            path, "SELECT task_index, task_id, admitted_version, worker, trained_step, reward_mean FROM groups"
        )
        assert found == [(40, "nand-7", 0, "b", 0, 0.25)]


def test_a_failed_group_is_queued_again(path: Path) -> None:
    with Journal.open(path) as journal:
        journal.resume(0)
        admit(journal, 0, task=0)
        journal.record(events.GroupFinished(group=0, attempt=1, min_version=0))
        journal.record(events.GroupFailed(group=0, attempt=1, reason="no verdict"))
        assert states(path) == [(0, "queued", 1)]


def test_events_are_written_in_order_with_their_fields(path: Path) -> None:
    """What was told to the scheduler can be read back as JSON."""
    with Journal.open(path) as journal:
        journal.resume(0)
        journal.record(events.WorkerJoined(worker="a", version=0, capacity=8))
        journal.record(events.StopRequested())
    found = rows(path, "SELECT seq, lineage, kind, json FROM events ORDER BY seq")
    assert found == [
        (1, 1, "WorkerJoined", '{"worker": "a", "version": 0, "capacity": 8}'),
        (2, 1, "StopRequested", "{}"),
    ]


def test_a_resume_rolls_back_what_the_checkpoint_does_not_hold(path: Path) -> None:
    """Step 1 is lost with the checkpoint of version 1: its task runs again, under a group number used before."""
    with Journal.open(path) as journal:
        journal.resume(0)
        for group in range(3):
            admit(journal, group, task=group)
        train(journal, 0, (0,))
        train(journal, 1, (1,))
    with Journal.open(path) as journal:
        journal.resume(1)
        assert journal.trained_tasks() == [(0, 0)]
        admit(journal, 1, task=1)
        admit(journal, 2, task=2)
        train(journal, 1, (1,))
        assert journal.trained_tasks() == [(0, 0), (1, 1)]
    assert rows(path, "SELECT lineage, group_id, state FROM groups ORDER BY lineage, group_id") == [
        (1, 0, "trained"),
        (1, 1, "rolled_back"),
        (1, 2, "rolled_back"),
        (2, 1, "trained"),
        (2, 2, "running"),
    ]
    assert rows(path, "SELECT lineage, version FROM lineages") == [(1, 0), (2, 1)]


def test_training_a_task_twice_is_refused(path: Path) -> None:
    """The database itself forbids it, across a resume as well; the refused step leaves no trace."""
    with Journal.open(path) as journal:
        journal.resume(0)
        admit(journal, 0, task=7)
        train(journal, 0, (0,))
    with Journal.open(path) as journal:
        journal.resume(1)
        admit(journal, 1, task=8)
        admit(journal, 2, task=7)
        with pytest.raises(JournalError, match="step 1 trained a task that this lineage has trained before"):
            train(journal, 1, (1, 2))
        assert journal.trained_tasks() == [(0, 7)]


def test_a_step_that_consumed_nothing_is_refused(path: Path) -> None:
    with Journal.open(path) as journal:
        journal.resume(0)
        with pytest.raises(JournalError, match="step 0 is said to be trained"):
            journal.record(events.StepTrained(version=1))


def test_a_second_driver_is_refused_by_name(path: Path) -> None:
    """And may start as soon as the first has ended."""
    with Journal.open(path), pytest.raises(JournalError, match=r"already driven by process \d+ on \S+: wait for it"):
        Journal.open(path)
    Journal.open(path).close()


def test_a_killed_driver_leaves_lock_and_rows_in_order(path: Path) -> None:
    """kill -9 between Train and StepTrained: the step does not count, and the next driver gets in at once."""
    killed = subprocess.run([sys.executable, "-c", KILLED_IN_STEP_1, path], cwd=Path(__file__).parents[3], check=False)
    assert killed.returncode == -signal.SIGKILL
    with Journal.open(path) as journal:
        journal.resume(1)
        assert journal.trained_tasks() == [(0, 0), (0, 1)]


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    path.write_text("what is this? " * 100)
    with pytest.raises(JournalError, match=f"{re.escape(str(path))} cannot be used as a journal"):
        Journal.open(path)
    path.unlink()
    Journal.open(path).close()  # the lock was let go


def test_tables_of_another_version_are_refused(path: Path) -> None:
    """A journal of an older Temper is neither misread nor changed, and the lock is let go."""
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE groups (group_id)")
    database.close()
    with pytest.raises(JournalError, match="has tables of version 1, this Temper writes version 3: go on with"):
        Journal.open(path)
    assert rows(path, "SELECT name FROM sqlite_master") == [("groups",)]
    path.unlink()
    Journal.open(path).close()


def test_a_whole_run_trains_each_task_once_through_stop_and_resume(path: Path) -> None:
    """Scheduler and journal together: stopped after two steps, resumed, and every task of six steps is there once."""
    config = SchedulerConfig(
        groups_per_step=3,
        total_steps=6,
        max_staleness=2,
        publish_every=1,
        eval_every=0,
        eval_at_start=False,
        eval_at_end=False,
        checkpoint_every=0,
    )
    saved: list[SchedulerState] = []

    def drive(stop_after: int | None) -> list[tuple[int, int]]:
        scheduler = Scheduler(config, saved[-1] if saved else None)
        with Journal.open(path) as journal:
            journal.resume(scheduler.version)
            queue: deque[events.Event] = deque([events.WorkerJoined(worker="a", version=0, capacity=9)])
            while not scheduler.done:
                event = queue.popleft()
                journal.record(event)
                if event == events.StepTrained(version=stop_after or -1):
                    queue.append(events.StopRequested())
                todo = scheduler.handle(event)
                journal.start(todo)
                for action in todo:
                    match action:
                        case actions.StartGroup(group=group, attempt=attempt, version=version):
                            queue.append(events.GroupFinished(group=group, attempt=attempt, min_version=version))
                        case actions.ScoreGroup(group=group, attempt=attempt):
                            queue.append(events.VerdictsArrived(group=group, attempt=attempt))
                        case actions.Train(step=step):
                            queue.append(events.StepTrained(version=step + 1))
                        case actions.Publish(version=version):
                            queue.append(events.WeightsPublished(version=version))
                        case actions.SyncWorker(worker=worker, version=version):
                            queue.append(events.WorkerSynced(worker=worker, version=version))
                        case actions.Checkpoint(version=version, state=state):
                            saved.append(state)
                            queue.append(events.CheckpointWritten(version=version))
            return journal.trained_tasks()

    first = drive(stop_after=2)
    assert [step for step, _ in first[:6]] == [0] * 3 + [1] * 3
    assert len(first) < 18
    assert drive(stop_after=None) == [(task // 3, task) for task in range(18)]
