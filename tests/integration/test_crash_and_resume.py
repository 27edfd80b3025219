"""The real thing, killed: kill -9 of the driver at random moments, resumed until it is done, and nothing shows.

Draws of a real engine are not a function of seed and task (the order in which requests meet in it is not fixed), so a
killed run is compared with a learner that was never interrupted and is fed, step by step, the same groups.
"""

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from orchestration.checkpoint_store import damage_of
from tests.integration.test_quickstart import DEADLINE_S, SMALL, pid_of, start, steps_of, temper

STEPS, SIZE = 8, 4
REPLAY = """
import sys
from pathlib import Path
from orchestration.process import prepare
prepare()
import torch
torch.set_num_threads(1)
from learner.worker import LearnerWorker
from orchestration.buffer import Group, Rewards, train_batch
from orchestration.config import load_saved_plan
from orchestration.journal import Journal
from orchestration.launch import resolve_model

folder, to = map(Path, sys.argv[1:])
plan = load_saved_plan(folder / "config.yaml", [])
rewards = Rewards(config=plan.reward, max_tokens=plan.task.max_tokens)
arguments = plan.learner, plan.algorithm, 0, 1, "127.0.0.1", 29731, plan.seed, plan.run.steps
learner = LearnerWorker(resolve_model(plan), *arguments)
with Journal.open(folder / "journal.sqlite") as journal:
    trained = journal.trained_tasks()
    for step in range(plan.run.steps):
        groups = {}
        for task in [task for at, task in trained if at == step]:
            draw = journal.draw(task)
            groups[task] = Group(plan.task.train_task(task, plan.seed), draw.rollouts, draw.verdicts)
        learner.train(train_batch(step, groups, rewards))
learner.export(to)
"""


def processes_of(folder: Path) -> list[psutil.Process]:
    """Everything that holds a file of the run open."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(file.path.startswith(f"{folder}/") for file in process.open_files()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait(process: subprocess.Popen, seconds: float) -> bool:
    """Whether it has ended by itself."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("staleness", [0, 1])
def test_a_run_killed_at_random_equals_one_that_was_not(tmp_path: Path, staleness: int) -> None:
    """Every task trained once, none too old, no process left, and fp32 weights equal bit for bit."""
    rng, folder = random.Random(staleness), tmp_path / "run"
    options = [f"run.steps={STEPS}", f"run.max_staleness={staleness}", "run.checkpoint_every=2"]
    options += ["run.keep_rollouts=null", "eval.at_start=false", "eval.at_end=false", "monitor=quiet"]
    driver = start(folder, *options)
    for _ in range(3):
        before = len(steps_of(folder))
        deadline = time.monotonic() + DEADLINE_S
        while len(steps_of(folder)) < before + 1 and driver.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        if not wait(driver, rng.uniform(0.0, 0.6)):
            os.kill(driver.pid, signal.SIGKILL)
            driver.wait(30)
        deadline = time.monotonic() + 30
        while processes_of(folder) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not processes_of(folder)
        driver = subprocess.Popen([sys.executable, "-m", "orchestration.cli", "resume", str(folder)])
    assert driver.wait(DEADLINE_S) == 0

    database = sqlite3.connect(folder / "journal.sqlite")
    trained = database.execute(
        "SELECT task_index, trained_step, trained_step - oldest_version FROM groups WHERE state = 'trained'"
    ).fetchall()
    lives = database.execute("SELECT count(*) FROM lineages").fetchone()[0]
    database.close()
    assert lives == 4
    assert sorted((task, step) for task, step, _ in trained) == [(task, task // SIZE) for task in range(STEPS * SIZE)]
    assert {age for _, _, age in trained} <= set(range(staleness + 1))

    replay = [sys.executable, "-c", REPLAY, str(folder), str(tmp_path / "replayed")]
    subprocess.run(replay, check=True, timeout=DEADLINE_S, env={**os.environ, "OMP_NUM_THREADS": "1"})
    weights = "model.safetensors"
    resumed = (folder / "checkpoints" / "latest" / "policy" / weights).read_bytes()
    assert resumed == (tmp_path / "replayed" / weights).read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_killed_while_a_checkpoint_is_written_goes_on_from_the_one_before(tmp_path: Path) -> None:
    """Driver and learner die with files half written; what is there is whole, and the run ends as it should."""
    folder = tmp_path / "run"
    checkpoints = folder / "checkpoints"
    options = ["run.steps=6", "run.checkpoint_every=1", "eval.at_start=false", "eval.at_end=false", "monitor=quiet"]
    driver = start(folder, *options)
    deadline = time.monotonic() + DEADLINE_S
    while not ((checkpoints / "latest").exists() and list(checkpoints.glob(".writing-version_*/learner.json"))):
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.001)
    learner = pid_of(folder, "learner-0")
    os.kill(driver.pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):  # it may have noticed
        os.kill(learner, signal.SIGKILL)
    driver.wait(30)
    assert list(checkpoints.glob(".writing-version_*"))
    found = (checkpoints / "latest").resolve()
    assert damage_of(found) is None
    assert (found / "policy" / "model.safetensors").is_file()
    result = temper("resume", str(folder))
    assert result.returncode == 0, result.stdout + result.stderr
    assert not list(checkpoints.glob(".writing-*"))
    assert (checkpoints / "latest").readlink() == Path("version_000006")
    database = sqlite3.connect(folder / "journal.sqlite")
    trained = database.execute("SELECT task_index FROM groups WHERE state = 'trained' ORDER BY 1").fetchall()
    database.close()
    assert trained == [(task,) for task in range(6 * SIZE)]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_goes_on_with_other_numbers_of_workers_and_ranks(tmp_path: Path) -> None:
    """Stopped at one worker and one rank, resumed with two of each; then its responses are exported."""
    folder = tmp_path / "run"
    options = ["run.steps=2", "monitor=quiet", "eval.at_start=false", "eval.at_end=false"]
    result = temper("train", *SMALL, f"run.dir={folder}", *options)
    assert result.returncode == 0, result.stderr
    result = temper("resume", str(folder), "run.steps=4", "rollout.workers=2", "learner.ranks=2")
    assert result.returncode == 0, result.stdout + result.stderr
    assert [row["step"] for row in steps_of(folder)] == [1, 2, 3, 4]
    exported = temper("export-rollouts", str(folder))
    assert f"{4 * SIZE * 8} rollouts" in exported.stdout, exported.stderr
