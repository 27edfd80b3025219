"""Wherever the driver dies, a resumed run trains every task exactly once, and takes up what was drawn already."""

import sqlite3
from collections import Counter
from pathlib import Path

import pytest

from orchestration.scheduler_config import SchedulerConfig
from tests.orchestration.journal.crash_world import Crash, Disk, Process

STEPS, SIZE = 4, 2


def config(staleness: int, **changes: int) -> SchedulerConfig:
    plain = {"groups_per_step": SIZE, "total_steps": STEPS, "publish_every": 1, "eval_every": 2, "checkpoint_every": 2}
    return SchedulerConfig(max_staleness=staleness, eval_at_start=False, eval_at_end=False, **{**plain, **changes})


def check_the_file(path: Path, staleness: int, steps: int = STEPS, size: int = SIZE) -> int:
    """With nothing but SQL: every task once, a whole step each, in order, within the bound; returns the rejected."""
    database = sqlite3.connect(path)
    trained = database.execute(
        "SELECT trained_step, task_index, trained_step - oldest_version FROM groups WHERE state = 'trained'"
    ).fetchall()
    rejected = [task for (task,) in database.execute("SELECT task_index FROM rejections")]
    database.close()
    assert sorted([*rejected, *(task for _, task, _ in trained)]) == list(range(steps * size + len(rejected)))
    assert Counter(step for step, _, _ in trained) == dict.fromkeys(range(steps), size)
    if not rejected:
        assert [task // size for step, task, _ in sorted(trained)] == [step for step, _, _ in sorted(trained)]
    assert {age for _, _, age in trained} <= set(range(staleness + 1))
    return len(rejected)


@pytest.mark.parametrize(("staleness", "refills"), [(0, 0), (2, 0), (2, 2)])
def test_a_crash_at_any_moment_of_any_event_is_survived(tmp_path: Path, staleness: int, refills: int) -> None:
    """Before an event is written down and after it: resumed, every task is trained, or rejected, exactly once."""
    plan = config(staleness, refills=refills)
    for moment in range(1, Process(plan, Disk(tmp_path / "whole.sqlite"), lambda _: False, seed=1).moment + 1):
        disk = Disk(tmp_path / f"{moment}.sqlite")
        with pytest.raises(Crash):
            Process(plan, disk, lambda now, at=moment: now == at, seed=1)
        Process(plan, disk, lambda _: False, seed=2)
        assert bool(check_the_file(disk.path, staleness)) == bool(refills)
        disk.path.unlink()


@pytest.mark.parametrize("staleness", [0, 1, 3])
@pytest.mark.parametrize("seed", range(6))
def test_crash_after_crash_is_survived(tmp_path: Path, staleness: int, seed: int) -> None:
    """Ever later in the life of each process, with other orders of answers."""
    disk, lives = Disk(tmp_path / "j.sqlite"), 0
    while True:
        lives += 1
        try:
            Process(config(staleness), disk, lambda now, at=5 + 4 * lives: now == at, seed + lives)
            break
        except Crash:
            assert lives < 200
    assert lives > 3
    check_the_file(disk.path, staleness)


@pytest.mark.parametrize("refills", [0, 2])
def test_a_synchronous_run_ends_with_the_weights_of_one_that_was_never_killed(tmp_path: Path, refills: int) -> None:
    """Draws being a function of task and weights: at S = 0 with one group a step any crash leaves no trace at all."""
    plan = config(0, refills=refills, groups_per_step=SIZE if not refills else 1)
    whole = Disk(tmp_path / "whole.sqlite")
    moments = Process(plan, whole, lambda _: False, seed=1, noise=False).moment
    for moment in range(1, moments, 4):
        disk = Disk(tmp_path / f"{moment}.sqlite")
        with pytest.raises(Crash):
            Process(plan, disk, lambda now, at=moment: now == at, seed=3, noise=False)
        Process(plan, disk, lambda _: False, seed=4, noise=False)
        assert disk.ancestors == whole.ancestors


def test_what_was_drawn_is_not_drawn_again(tmp_path: Path) -> None:
    """Killed before the first checkpoint: only draws that weights newer than version 0 had a part in are made again."""
    disk = Disk(tmp_path / "j.sqlite")
    with pytest.raises(Crash):
        Process(config(2), disk, lambda _: len(disk.drawn) == 6, seed=1)
    database = sqlite3.connect(disk.path)
    lost = [task for (task,) in database.execute("SELECT task_index FROM draws WHERE newest_version > 0")]
    database.close()
    assert 0 < len(lost) < 3
    Process(config(2), disk, lambda _: False, seed=1)
    assert sorted(disk.drawn) == sorted([*range(STEPS * SIZE), *lost])
    check_the_file(disk.path, 2)


def test_with_a_tighter_bound_what_is_too_old_is_drawn_again(tmp_path: Path) -> None:
    """Drawn at S = 2 for steps 0, 1 and 2; resumed at version 0 with S = 0 only the first step's draws count."""
    disk = Disk(tmp_path / "j.sqlite")
    with pytest.raises(Crash):
        Process(config(2), disk, lambda _: len(disk.drawn) == 6, seed=1)
    Process(config(0), disk, lambda _: False, seed=1)
    again = sorted((Counter(disk.drawn) - Counter(range(STEPS * SIZE))).elements())
    assert again == [2, 3, 4, 5]
    check_the_file(disk.path, 0)
