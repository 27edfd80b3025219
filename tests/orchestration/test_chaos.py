"""Chaos kills real processes of every kind it is told to, counts over restarts, and never somebody else's process."""

import asyncio
import json
import os
import socket
import subprocess
import sys

import pytest

from orchestration.chaos import ChaosConfig, chaos, kills_so_far
from orchestration.on_ray.actor import Service


class Victim:
    def __init__(self, name, killed):
        self.name, self.killed = name, killed

    def kill_process(self):
        self.killed.append(self.name)


def run(folder, *, names, **settings) -> list[str]:
    killed: list[str] = []
    alive = {name: Victim(name, killed) for name in names}
    config = ChaosConfig(**({"every_s": 1e-4, "victims": ("rollout", "verifier", "learner")} | settings))
    asyncio.run(asyncio.wait_for(chaos(config, folder, lambda: alive), 20))
    return killed


def test_every_kind_is_killed_about_equally_often(tmp_path):
    """300 kills: 100 of each kind within 4 standard deviations (33), whatever its number of workers; all are noted."""
    killed = run(tmp_path, names=["rollout-0", "rollout-1", "verifier-0", "learner-0"], kills=300)
    for kind in ("rollout", "verifier", "learner"):
        assert abs(sum(name.startswith(kind) for name in killed) - 100) < 33
    noted = [json.loads(line)["victim"] for line in (tmp_path / "chaos.jsonl").read_text().splitlines()]
    assert noted == killed


def test_kills_are_counted_over_restarts(tmp_path):
    """A driver that comes back goes on where it stopped, with other victims."""
    run(tmp_path, names=["rollout-0", "learner-0"], victims=("rollout", "learner"), kills=20)
    assert run(tmp_path, names=["rollout-0"], victims=("rollout",), kills=25) == ["rollout-0"] * 5
    assert kills_so_far(tmp_path) == 25


DRIVER = """
import asyncio, sys
from pathlib import Path
from orchestration.chaos import ChaosConfig, chaos
asyncio.run(chaos(ChaosConfig(every_s=1e-3, victims=("driver",)), Path(sys.argv[1]), dict))
"""


def test_a_driver_kills_itself_after_noting_it(tmp_path):
    ended = subprocess.run([sys.executable, "-c", DRIVER, str(tmp_path)], timeout=60)
    assert ended.returncode == -9
    assert kills_so_far(tmp_path) == 1


def test_a_process_that_took_over_the_number_is_spared(tmp_path):
    """Process ids come again: only a process of Ray's is killed."""
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        service = Service("rollout-0", tmp_path / "log")
        service.host, service.pid = socket.gethostname(), bystander.pid
        service.kill_process()
        assert bystander.poll() is None
        service.pid = 2**22 + os.getpid()  # nobody's
        service.kill_process()
    finally:
        bystander.kill()
        bystander.wait()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"every_s": -1.0}, "at least 0, got -1"),
        ({"victims": ("engine",)}, "some of rollout.*got"),
        ({"victims": ()}, "some of"),
    ],
)
def test_impossible_chaos_is_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        ChaosConfig(**settings)
