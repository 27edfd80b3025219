"""The sandbox: what a tool may not reach, and how each kind of end is told."""

import shutil
import signal
import subprocess
import threading
import time

import pytest

from reward.errors import SandboxError, ToolError
from reward.sandbox import Ending, Limits, Sandbox, bubblewrap_prefixes, check_program

LIMITS = Limits(wall_s=10.0, cpu_s=1)

needs_bubblewrap = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")


@pytest.fixture(scope="module")
def sandbox():
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    return Sandbox("bubblewrap")


def shell(sandbox: Sandbox, command: str, limits: Limits = LIMITS, **files: bytes):
    return sandbox.run(["sh", "-c", command], files, limits)


def test_input_files_are_there_and_nothing_else(sandbox):
    """A tool sees its input files, an empty /tmp otherwise, and no home or configuration of the host."""
    finished = shell(sandbox, "cat a; ls /tmp; ls /etc /root /home 2>&1 | grep -vc 'No such'", a=b"hello\n")
    assert finished.stdout == b"hello\na\n0\n"


def test_the_host_cannot_be_written(sandbox, tmp_path):
    """Writes outside the private /tmp fail, and a folder of the host does not exist inside."""
    canary = tmp_path / "canary"
    canary.write_text("alive")
    finished = shell(sandbox, f"echo dead > {canary}; touch /usr/x /x; id -u")
    assert canary.read_text() == "alive"
    assert finished.stdout == b"65534\n"
    assert b"Read-only file system" in finished.stderr


def test_there_is_no_network_and_no_other_process(sandbox):
    """Only a loopback device without an address, and a process table of its own."""
    finished = shell(sandbox, "tail -n +3 /proc/net/dev | grep -vc lo:; ls -d /proc/[0-9]* | wc -l")
    lines = finished.stdout.split()
    assert lines[0] == b"0"
    assert int(lines[1]) < 10


@pytest.mark.parametrize(
    ("command", "ending"),
    [
        ("true", Ending.EXITED),
        ("exit 3", Ending.EXITED),
        ("while :; do :; done", Ending.CPU),
        ("head -c 40000000 /dev/zero > big", Ending.FILE),
        ("yes", Ending.OUTPUT),
        ("kill -9 $$", Ending.KILLED),
    ],
)
def test_endings(sandbox, command, ending):
    """Each way to end is told apart."""
    limits = Limits(wall_s=20.0, cpu_s=1, output_bytes=100_000)
    finished = shell(sandbox, command, limits)
    assert finished.ending == ending
    assert len(finished.stdout) <= limits.output_bytes


@pytest.mark.parametrize("command", ["sleep 60", "exec >&- 2>&-; sleep 60", "sleep 60 & sleep 60"])
def test_wall_clock_deadline(sandbox, command):
    """A tool that sleeps, speaking or silent, is over at the deadline."""
    started = time.monotonic()
    finished = shell(sandbox, command, Limits(wall_s=0.3, cpu_s=5))
    assert finished.ending == Ending.WALL
    assert time.monotonic() - started < 2.0


def test_memory_limit(sandbox):
    """Address space is bounded for every process inside."""
    finished = shell(sandbox, "ulimit -v", Limits(wall_s=5.0, cpu_s=1, memory_bytes=100 << 20))
    assert finished.stdout.strip() == str(100 << 10).encode()


def test_children_die_with_the_call(sandbox):
    """A process left in the background does not outlive its call."""
    marker = "61.0625"
    shell(sandbox, f"sleep {marker} & exit 0")
    listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert f"sleep {marker}" not in listing


def test_kill_of_the_outermost_process(sandbox):
    """kill -9 of a listed pid ends the call as killed, and the list is empty afterwards."""
    done = []
    thread = threading.Thread(target=lambda: done.append(shell(sandbox, "sleep 60", Limits(wall_s=30.0, cpu_s=5))))
    thread.start()
    deadline = time.monotonic() + 10
    while not sandbox.pids() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    subprocess.run(["kill", f"-{int(signal.SIGKILL)}", str(sandbox.pids()[0])], check=True)
    thread.join(10)
    assert done[0].ending == Ending.KILLED
    assert sandbox.pids() == []


def test_refuses_without_bubblewrap(monkeypatch):
    """Where bwrap is missing, one sentence names the package and the setting that does without."""
    bubblewrap_prefixes.cache_clear()
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(SandboxError, match=r"apt-get install bubblewrap.*reward\.sandbox=unsafe"):
        Sandbox("bubblewrap")
    bubblewrap_prefixes.cache_clear()


def test_refuses_a_bubblewrap_that_does_not_work(monkeypatch, tmp_path):
    """A bwrap that fails is reported with its own words."""
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    fake.chmod(0o755)
    bubblewrap_prefixes.cache_clear()
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    tmp_path.chmod(0o755)
    with pytest.raises(SandboxError, match="does not work here"):
        Sandbox("bubblewrap")
    bubblewrap_prefixes.cache_clear()


def test_unsafe_runs_with_limits_and_leaves_no_file():
    """The unsafe form keeps limits and cleans up."""
    sandbox = Sandbox("unsafe")
    assert "UNSAFE" in sandbox.describe()
    finished = shell(sandbox, "cat a; pwd", a=b"hello\n")
    folder = finished.stdout.decode().splitlines()[1]
    assert finished.stdout.startswith(b"hello\n")
    assert subprocess.run(["test", "-e", folder], check=False).returncode == 1
    assert shell(sandbox, "while :; do :; done").ending == Ending.CPU


def test_a_missing_program_is_one_sentence():
    """The message names the package to install."""
    with pytest.raises(ToolError, match="`apt-get install iverilog`"):
        check_program("no-such-program", package="iverilog")
