"""A driver that is lost is started again from its run folder; one that says why it stopped is not."""

import argparse
import signal
import subprocess
import sys
import time

import pytest
from omegaconf import OmegaConf

from orchestration import supervisor
from orchestration.commands import train
from orchestration.config import CONF, load_plan
from orchestration.supervisor import LOST, supervise

RESTARTED = ["experiment=quickstart", "run.restarts=2", "run.checkpoint_every=5"]


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """(codes) -> (exit code of the supervisor, what drivers were started with); the first writes the configuration."""
    monkeypatch.setattr("orchestration.restarts.FIRST_PAUSE_S", 0.0)

    def run(*codes, restarts=10, writes=True):
        left, started = list(codes), []

        def start(arguments):
            started.append(list(arguments))
            if writes:
                (tmp_path / "config.yaml").touch()
            return left.pop(0)

        code = supervise(["train", "a=1"], tmp_path, ["resume"], restarts, start)
        return code, started

    return run


@pytest.mark.parametrize("code", [0, 1, 2, 130])
def test_a_driver_that_ends_by_itself_is_left_alone(code, driver):
    """Done, stopped for a reason, bad input, interrupted: its exit code is the supervisor's."""
    assert driver(code) == (code, [["train", "a=1"]])


def test_a_lost_driver_is_resumed_until_it_is_done(driver):
    """Killed once and ended with LOST once: two resumes."""
    assert driver(-signal.SIGKILL, LOST, 0) == (0, [["train", "a=1"], ["resume"], ["resume"]])


def test_a_driver_lost_before_it_had_a_folder_starts_anew(driver):
    assert driver(-signal.SIGKILL, 0, writes=False) == (0, [["train", "a=1"]] * 2)


def test_a_spent_budget_ends_with_a_sentence(driver, capsys, tmp_path):
    """The exit code is not 0 also where a signal killed the driver, and the message says how to go on."""
    code, started = driver(LOST, -signal.SIGKILL, restarts=1)
    assert (code, len(started)) == (LOST, 2)
    said = capsys.readouterr().err
    assert "was killed by SIGKILL, and run.restarts=1 within an hour are used up" in said
    assert f"temper resume {tmp_path}" in said


@pytest.mark.parametrize("resumed", [False, True])
def test_what_a_lost_driver_is_started_with_again(resumed, tmp_path, monkeypatch):
    """A new run goes on from its folder; one that was resumed with overrides keeps them at every attempt."""
    started = []
    monkeypatch.setattr(train, "supervise", lambda first, root, again, *_: started.extend([first, again]) or 0)
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(load_plan(RESTARTED).tree))
    given = [f"resume={tmp_path}", "run.steps=9"] if resumed else [*RESTARTED, f"run.dir={tmp_path}"]
    assert train.run(argparse.Namespace(overrides=given, conf=CONF, driver=False)) == 0
    flags = ["--driver", "--conf", str(CONF)]
    assert started[0][: len(given) + 1] == ["train", *given]
    assert started[1] == (["train", *given, *flags] if resumed else ["train", f"resume={tmp_path}", *flags])


def test_a_real_driver_is_started_with_the_arguments_and_its_exit_code_comes_back():
    assert supervisor.start_driver(["no-such-command"]) == 2


CHILD = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print("up", flush=True)
time.sleep(60)
"""
PARENT = f"""
import subprocess, sys
from orchestration import supervisor
popen = subprocess.Popen
supervisor.subprocess.Popen = lambda *_: popen([sys.executable, "-c", {CHILD!r}])
sys.exit(supervisor.start_driver([]))
"""


def test_a_termination_is_passed_on_to_the_driver():
    """As Slurm sends it: the driver ends in its own way, and the supervisor after it."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout.readline() == "up\n"
    time.sleep(0.1)
    parent.terminate()
    assert parent.wait(timeout=30) == 7
    parent.stdout.close()
