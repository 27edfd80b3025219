"""What was drawn is kept as it was, for as long as it is of use, and no draw of lost weights is ever handed out."""

import sqlite3
import threading
from dataclasses import fields, is_dataclass
from pathlib import Path

import numpy as np
import pytest

from orchestration import actions, events
from orchestration.actions import SchedulerState
from orchestration.errors import JournalError
from orchestration.journal import Journal, Leftover
from tests.orchestration.journal.records import rollout, verdict


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


def draw(journal: Journal, task: int, *versions: int, attempt: int = 1, judged: bool = False) -> None:
    """Two responses to a task, group number = task, with one token by each of these versions."""
    journal.start([actions.StartGroup(group=task, task_index=task, version=0, worker="a", attempt=attempt)])
    journal.add_draw(
        group=task,
        attempt=attempt,
        task_index=task,
        task_id=f"task-{task}",
        prompt="p",
        rollouts=[rollout(index, versions) for index in range(2)],
    )
    journal.record(events.GroupFinished(group=task, attempt=attempt, min_version=min(versions)))
    if judged:
        journal.add_verdicts(group=task, attempt=attempt, verdicts=[verdict(0.0), verdict(1.0)], reward_mean=0.5)
        journal.record(events.VerdictsArrived(group=task, attempt=attempt))


def train(journal: Journal, step: int, *groups: int) -> None:
    journal.start([actions.Train(step=step, groups=groups)])
    journal.record(events.StepTrained(version=step + 1))


def kept(path: Path) -> list[int]:
    """Tasks with a draw, as any SQLite tool sees them; rollouts and verdicts go with it."""
    database = sqlite3.connect(path)
    try:
        tasks = [task for (task,) in database.execute("SELECT task_index FROM draws ORDER BY task_index")]
        assert {task for (task,) in database.execute("SELECT task_index FROM rollouts")} == set(tasks)
        assert {task for (task,) in database.execute("SELECT task_index FROM verdicts")} <= set(tasks)
        return tasks
    finally:
        database.close()


def same(one: object, other: object) -> bool:
    """Equal in every bit and type, arrays included."""
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.tobytes() == other.tobytes()
    if is_dataclass(one):
        return type(one) is type(other) and all(
            same(getattr(one, field.name), getattr(other, field.name)) for field in fields(one)
        )
    if isinstance(one, tuple) and one and is_dataclass(one[0]):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other and type(one) is type(other)


@pytest.mark.parametrize("full", [False, True])
def test_a_rollout_comes_back_bit_for_bit(path: Path, full: bool) -> None:
    """All its fields, those that are None included, and its verdict; its arrays can be written to, as torch wants."""
    before = [rollout(index, (3, 3, 4, 7), full, group="5.2") for index in range(3)]
    with Journal.open(path) as journal:
        journal.resume(7)
        journal.start([actions.StartGroup(group=5, task_index=9, version=3, worker="a", attempt=2)])
        journal.add_draw(group=5, attempt=2, task_index=9, task_id="t", prompt="p", rollouts=before)
        journal.add_verdicts(group=5, attempt=2, verdicts=[verdict(0.25)] * 3, reward_mean=0.25)
    with Journal.open(path) as journal:
        found = journal.draw(9)
        assert journal.leftovers() == {9: Leftover(oldest_version=3, prompt_ids=(5, 6), samples=3)}
    assert same(found.rollouts, tuple(before))
    assert same(found.verdicts, (verdict(0.25),) * 3)
    assert found.oldest_version == 3
    found.rollouts[0].entropies[0] = 1.0


def test_half_characters_do_not_stop_the_run(path: Path) -> None:
    """What no database takes is replaced, in the text alone."""
    with Journal.open(path) as journal:
        journal.resume(0)
        broken = verdict()
        object.__setattr__(broken, "detail", "said \ud800")
        draw(journal, 0, 0)
        journal.add_verdicts(group=0, attempt=1, verdicts=[broken] * 2, reward_mean=1.0)
        assert journal.draw(0).verdicts[0].detail == "said ?"


def test_draws_of_lost_weights_are_forgotten_at_each_resume(path: Path) -> None:
    """From version 5 on weights are lost, and drawn anew by others: 4 and 5 stay, 6 goes, and so does 5-6."""
    with Journal.open(path) as journal:
        journal.resume(4)
        for task, versions in enumerate([(4, 4), (4, 5), (5, 6), (6, 6)]):
            draw(journal, task, *versions, judged=True)
    with Journal.open(path) as journal:
        journal.resume(5)
        assert {task: one.oldest_version for task, one in journal.leftovers().items()} == {0: 4, 1: 4}
        draw(journal, 2, 6)  # by another version 6
    with Journal.open(path) as journal:
        journal.resume(6)
        assert list(journal.leftovers()) == [0, 1, 2]
    with Journal.open(path) as journal:
        journal.resume(4)
        assert list(journal.leftovers()) == [0]
    assert kept(path) == [0]


def test_what_was_trained_is_left_over_only_where_the_step_is_rolled_back(path: Path) -> None:
    """Group 0 was trained by step 0, which the checkpoint of version 1 holds; group 1 by step 1, which it does not."""
    with Journal.open(path) as journal:
        journal.resume(0)
        draw(journal, 0, 0, judged=True)
        draw(journal, 1, 0, 1, judged=True)
        train(journal, 0, 0)
        train(journal, 1, 1)
    with Journal.open(path) as journal:
        journal.resume(1)
        assert list(journal.leftovers()) == [1]
        journal.start([actions.TakeUpGroup(group=1, task_index=1, version=1, attempt=1)])
        journal.record(events.GroupFinished(group=1, attempt=1, min_version=0))
        assert [one.reward for one in journal.draw(1).verdicts] == [0.0, 1.0]
        journal.add_verdicts(group=1, attempt=1, verdicts=journal.draw(1).verdicts, reward_mean=0.5)
        journal.record(events.VerdictsArrived(group=1, attempt=1))
        train(journal, 1, 1)
        assert journal.trained_tasks() == [(0, 0), (1, 1)]
    database = sqlite3.connect(path)
    columns = "lineage, worker, task_id, oldest_version, reward_mean, state"
    assert database.execute(f"SELECT {columns} FROM groups WHERE group_id = 1 ORDER BY lineage").fetchall() == [
        (1, "a", "task-1", 0, 0.5, "rolled_back"),
        (2, "the journal", "task-1", 0, 0.5, "trained"),
    ]
    database.close()


def test_verdicts_of_a_replaced_attempt_are_not_kept(path: Path) -> None:
    """They are about other responses."""
    with Journal.open(path) as journal:
        journal.resume(0)
        draw(journal, 0, 0, attempt=1)
        draw(journal, 0, 0, attempt=2)
        journal.add_verdicts(group=0, attempt=1, verdicts=[verdict()] * 2, reward_mean=1.0)
        assert journal.draw(0).verdicts == ()
        draw(journal, 1, 0, judged=True)
        draw(journal, 1, 0, attempt=2)
        assert journal.draw(1).verdicts == ()


def test_verdicts_can_be_forgotten_without_the_draws(path: Path) -> None:
    """Where rewards are made in another way now; those of trained groups stay as they are."""
    with Journal.open(path) as journal:
        journal.resume(0)
        draw(journal, 0, 0, judged=True)
        draw(journal, 1, 0, judged=True)
        train(journal, 0, 0)
        journal.forget_verdicts()
        assert [len(journal.draw(task).verdicts) for task in range(2)] == [2, 0]
        assert kept(path) == [0, 1]


@pytest.mark.parametrize(("keep", "expected"), [(None, range(12)), (3, [0, 1, 2, 9, 10, 11]), (0, [0, 1, 2])])
def test_draws_are_deleted_some_steps_after_their_training(path: Path, keep: int | None, expected: list[int]) -> None:
    """But not those that a resume from the newest checkpoint, here none, could take up: 0 to 2 are of version 0."""
    with Journal.open(path, keep_rollouts=keep) as journal:
        journal.resume(0)
        for step in range(12):
            draw(journal, step, max(0, step - 2), judged=True)
            train(journal, step, step)
    assert kept(path) == list(expected)


def test_a_checkpoint_lets_go_of_what_the_one_before_it_needed(path: Path) -> None:
    """With version 6 on disk only steps from 6 on, drawn by 6 or before, could be taken up."""
    with Journal.open(path, keep_rollouts=0) as journal:
        journal.resume(0)
        state = SchedulerState(version=6, evaluated=-1, trained_groups=6, untrained_tasks=(), next_task=6)
        for step in range(9):
            if step == 6:  # it is written while the step is trained
                journal.start([actions.Checkpoint(version=6, state=state)])
            draw(journal, step, max(0, step - 2))
            train(journal, step, step)
        assert kept(path) == [0, 1, 2, 6, 7, 8]
        journal.record(events.CheckpointWritten(version=6))
        draw(journal, 9, 9)
        train(journal, 9, 9)
    assert kept(path) == [6, 7, 8]


def test_the_file_does_not_grow_with_the_run(path: Path) -> None:
    """What the draws of 300 steps take is what three of them take, and room that long ones took is given back."""
    sizes = []
    with Journal.open(path, keep_rollouts=2) as journal:
        journal.resume(0)
        for step in range(300):
            long = (step,) * (20_000 if step < 20 else 2_000)
            journal.start([actions.StartGroup(group=step, task_index=step, version=step, worker="a", attempt=1)])
            journal.add_draw(
                group=step, attempt=1, task_index=step, task_id="t", prompt="p", rollouts=[rollout(0, long)]
            )
            train(journal, step, step)
            journal.record(events.CheckpointWritten(version=step + 1))
            sizes.append(journal._db.execute("PRAGMA page_count").fetchone()[0] * 4096)
    long_draw, short_draw, bookkeeping = 20_000 * 16, 2_000 * 16, 1_000  # bytes, the last of one step
    assert sizes[19] > 3 * long_draw
    assert sizes[-1] < (3 * short_draw + 300 * bookkeeping) / (1 - 0.25)


def test_a_draw_nobody_made_is_refused(path: Path) -> None:
    with Journal.open(path) as journal, pytest.raises(JournalError, match="has no draw of task 3"):
        journal.draw(3)


def test_draws_may_come_from_many_threads_beside_the_events(path: Path) -> None:
    """As the loop does it, so that it is not held up by long responses."""
    with Journal.open(path) as journal:
        journal.resume(0)

        def add(task: int) -> None:
            for attempt in range(1, 6):
                draw(journal, task, 0, attempt=attempt, judged=True)

        threads = [threading.Thread(target=add, args=(task,)) for task in range(6)]
        for thread in threads:
            thread.start()
        for _ in range(50):
            journal.record(events.StopRequested())
        for thread in threads:
            thread.join()
        assert [len(journal.draw(task).verdicts) for task in range(6)] == [2] * 6
    assert kept(path) == list(range(6))
