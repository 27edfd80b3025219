"""The real thing in small: Ray, vLLM, DeepSpeed, iverilog, from the command line to the files of a run."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pytest

from orchestration.journal import Journal

SMALL = [
    "experiment=quickstart",
    "model.training.steps=30",  # a policy that barely started: learning is not what these tests look at
    "run.groups_per_step=4",
    "run.group_size=8",
    "eval.tasks=4",
    "eval.samples=8",
    "eval.every=0",
    "monitor.wandb=offline",
]
ADAPTIVE = ["temperature=entropy_linear", "temperature.low=0.7", "temperature.entropy_high=6.0"]
DEADLINE_S = 240


def temper(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "orchestration.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
        **options,
    )


def start(folder: Path, *overrides: str) -> subprocess.Popen:
    with (folder.parent / f"{folder.name}.console").open("w") as console:
        return subprocess.Popen(
            [sys.executable, "-m", "orchestration.cli", "train", *SMALL, f"run.dir={folder}", *overrides],
            stdout=console,
            stderr=subprocess.STDOUT,
        )


def metrics_of(folder: Path) -> list[dict]:
    file = folder / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def steps_of(folder: Path) -> list[dict]:
    return [row for row in metrics_of(folder) if "train/reward" in row]


def wait_until(done: Callable[[], bool], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not done():
        assert process.poll() is None, "the run ended before the test could disturb it"
        assert time.monotonic() < deadline
        time.sleep(0.05)


def trained_tasks(folder: Path) -> list[int]:
    with Journal.open(folder / "journal.sqlite") as journal:
        return [task for _, task in journal.trained_tasks()]


def pid_of(folder: Path, name: str) -> int:
    """The newest process of that name, from the driver's log."""
    return int(re.findall(rf"{name} is up, process (\d+)", (folder / "logs" / "driver.log").read_text())[-1])


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    """One synchronous run of four steps with adaptive temperature, looked at by several tests."""
    folder = tmp_path_factory.mktemp("runs") / "sync"
    result = temper("train", *SMALL, f"run.dir={folder}", "run.steps=4", "run.max_staleness=0", *ADAPTIVE)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder, result


def test_a_run_leaves_everything_in_its_folder(finished):
    """Resolved config, metrics, curves, a report without outside links, checkpoint, logs of every actor, W&B files."""
    folder, _ = finished
    for name in ("config.yaml", "metrics.jsonl", "curves.png", "report.html", "checkpoints/latest/policy/config.json"):
        assert (folder / name).is_file(), name
    assert {path.stem for path in (folder / "logs").iterdir()} == {"driver", "learner-0", "rollout-0", "verifier-0"}
    assert list((folder / "wandb").glob("offline-run-*"))
    report = (folder / "report.html").read_text()
    assert not re.search(r"""(?:src|href)=["']https?://""", report)


def test_metric_names_others_rely_on(finished):
    """The names that scripts read are there, in every step or every evaluation."""
    rows = metrics_of(finished[0])
    steps = [row for row in rows if "train/reward" in row]
    evaluations = [row for row in rows if "eval/pass@1" in row]
    assert [row["step"] for row in steps] == [1, 2, 3, 4]
    assert [row["policy_version"] for row in evaluations] == [0, 4]
    in_steps = {
        "train/reward",
        "entropy/mean",
        "temperature/mean",
        "staleness/max",
        "mismatch/kl",
        "rollout/tokens_per_s",
        "learner/tokens_per_s",
        "time/elapsed_s",
        "step",
        "policy_version",
    }
    assert in_steps <= set(steps[-1])
    assert {"eval/pass@1", "eval/pass@8", "eval/greedy", "time/elapsed_s"} <= set(evaluations[-1])


def test_engine_and_learner_agree_at_adaptive_temperatures(finished):
    """Synchronous, fp32: mismatch-KL below 1e-8 at every step, while temperatures vary and weights change."""
    steps = steps_of(finished[0])
    assert steps[0]["temperature/max"] - steps[0]["temperature/min"] > 0.1
    assert max(row["mismatch/kl"] for row in steps) < 1e-8
    assert max(row["staleness/max"] for row in steps) == 0


def test_the_checkpoint_can_be_scored(finished):
    """`temper eval RUN` prints JSON with the metrics of the newest checkpoint."""
    result = temper("eval", str(finished[0]), "eval.tasks=3")
    assert result.returncode == 0, result.stderr
    scores = json.loads(result.stdout)
    assert {"eval/pass@1", "eval/greedy", "model", "tasks"} <= set(scores)


def test_interrupt_then_resume_trains_no_task_twice(tmp_path):
    """Ctrl-C writes a checkpoint and exits with 0; resumed, the run trains each task exactly once in all."""
    folder = tmp_path / "run"
    process = start(folder, "run.steps=8")
    wait_until(lambda: len(steps_of(folder)) >= 3, process)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    stopped_at = len(steps_of(folder))
    assert stopped_at < 8
    result = temper("train", f"resume={folder}")
    assert result.returncode == 0, result.stdout + result.stderr
    assert [row["step"] for row in steps_of(folder)] == list(range(1, 9))
    assert Counter(trained_tasks(folder)) == Counter(range(8 * 4))


@pytest.mark.parametrize("victim", ["rollout-0", pytest.param("verifier-0", marks=pytest.mark.slow)])
def test_a_killed_actor_costs_nothing_but_time(tmp_path, victim):
    """kill -9 of an actor in mid-run: it is replaced, and the run trains the same number of groups."""
    folder = tmp_path / "run"
    process = start(folder, "run.steps=8")
    wait_until(lambda: len(steps_of(folder)) >= 2, process)
    os.kill(pid_of(folder, victim), signal.SIGKILL)
    assert process.wait(DEADLINE_S) == 0, (folder.parent / "run.console").read_text()
    assert sorted(trained_tasks(folder)) == list(range(8 * 4))
    assert pid_of(folder, victim.replace("-0", "-1"))


@pytest.mark.slow
def test_a_dead_learner_ends_the_run_with_its_last_words(tmp_path):
    """kill -9 of the learner: exit code 3, one message that names the actor, shows its log and says how to go on."""
    folder = tmp_path / "run"
    process = start(folder, "run.steps=50")
    wait_until(lambda: len(steps_of(folder)) >= 2, process)
    os.kill(pid_of(folder, "learner-0"), signal.SIGKILL)
    assert process.wait(60) == 3
    console = (folder.parent / "run.console").read_text()
    assert "learner-0 died" in console
    assert "the last lines of its log" in console


@pytest.mark.slow
def test_a_full_disk_at_the_checkpoint_is_one_sentence(tmp_path):
    """The checkpoint does not fit: exit code 1, the sentence has bytes needed and free, nothing half-written stays."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    mount = tmp_path / "small"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", mount], check=False).returncode:
        pytest.skip("this sandbox does not allow mounting a tmpfs")
    try:
        result = temper("train", *SMALL, f"run.dir={mount}/run", "run.steps=1", "monitor=quiet", "eval.at_end=false")
        assert result.returncode == 1
        assert re.search(r"temper: disk full while writing the checkpoint of version 1 .* bytes", result.stderr)
        assert not list((mount / "run" / "checkpoints").glob("*/manifest.json"))
    finally:
        subprocess.run(["umount", mount], check=True)


def test_nothing_is_left_running(finished):
    """After a run no actor of it is alive: nobody holds a file of its folder open."""
    folder = str(finished[0])
    assert not [
        process
        for process in psutil.process_iter(["open_files"])
        if any(file.path.startswith(folder) for file in process.info["open_files"] or ())
    ]


def refused(*arguments: str, env: dict | None = None) -> str:
    """The sentence on standard error of a command that must fail within seconds."""
    began = time.monotonic()
    result = temper(*arguments, env={**os.environ, **(env or {})})
    assert result.returncode in (1, 2), result.stdout + result.stderr
    assert time.monotonic() - began < 30
    lines: Sequence[str] = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


def test_bad_input_is_one_sentence(tmp_path):
    """Unknown experiment, misspelt key, no data, malformed line, model without tokenizer, no iverilog, no cluster."""
    assert "there is no experiment=nope" in refused("train", "experiment=nope")
    assert "did you mean steps?" in refused("train", "experiment=quickstart", "run.step=3")
    data = tmp_path / "data.jsonl"
    assert str(data) in refused("train", "task=jsonl", f"task.path={data}", "model=huggingface", "model.path=x")
    data.write_text('{"prompt": "1+1", "answer": "2"}\n{"prompt": "2+2", "answ\n')
    assert "line 2" in refused("train", "task=jsonl", f"task.path={data}", "model=huggingface", "model.path=x")
    empty = tmp_path / "model"
    empty.mkdir()
    (empty / "config.json").write_text('{"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}')
    assert "tokenizer" in refused("train", "experiment=quickstart", "model=huggingface", f"model.path={empty}")
    bare = {"PATH": str(tmp_path)}
    assert "iverilog" in refused("train", "experiment=quickstart", env=bare)
    assert "cluster.address=127.0.0.1:1" in refused(
        "train", *SMALL, "cluster=ray", "cluster.address=127.0.0.1:1", f"run.dir={tmp_path}/r", "monitor=quiet"
    )
