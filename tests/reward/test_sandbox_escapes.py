"""The sandbox against somebody who runs commands in it: nothing of the host is read, written, reached or outlived."""

import os
import shutil
import socket
import subprocess
import threading
import time

import pytest

from reward.sandbox import TMP_BYTES, Limits, Sandbox

LIMITS = Limits(wall_s=10.0, cpu_s=2)
SECRET = "temper-secret-6f1d"
PERL = shutil.which("perl", path="/usr/bin:/bin")

needs_perl = pytest.mark.skipif(PERL is None, reason="perl, which plays the attacker's program, is not installed")


@pytest.fixture(scope="module")
def sandbox():
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    return Sandbox("bubblewrap")


def said(sandbox: Sandbox, command: str, limits: Limits = LIMITS) -> str:
    """What the command writes to stdout."""
    return sandbox.run(["sh", "-c", command], {"input": b"here\n"}, limits).stdout.decode(errors="replace")


def host_processes(mark: str) -> list[str]:
    listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listing.splitlines() if mark in line]


@pytest.mark.parametrize(
    "folder", ["/", "/dev", "/dev/shm", "/usr", "/usr/local", "/usr/bin", "/proc", "/proc/self", "/proc/sys/kernel"]
)
def test_only_tmp_can_be_written(sandbox, folder):
    """No file or folder can be made anywhere but in the /tmp of bounded size, not even in memory without a size."""
    assert (
        said(sandbox, f"(echo x > {folder}/x) 2>/dev/null && echo wrote; mkdir {folder}/y 2>/dev/null && echo made")
        == ""
    )
    assert said(sandbox, "echo x > /tmp/x && echo wrote") == "wrote\n"


def test_inputs_cannot_be_changed(sandbox):
    """What the verifier handed over stays as it is."""
    assert said(sandbox, "(echo x > input; rm -f input; mv input a) 2>/dev/null; cat input") == "here\n"


@pytest.mark.parametrize(
    "path",
    [
        *("/etc/shadow", "/etc/passwd", "/root", "/home", "/var", "/run", "/sys", "/opt", "/mnt", "/proc/kcore"),
        *("/proc/kmsg", "/dev/mem", "/dev/vda", "/dev/sda", "/dev/kvm", "/dev/fuse", "/proc/1/root/etc"),
        "/proc/1/cwd/../etc",
    ],
)
def test_nothing_of_the_host_can_be_read(sandbox, path, tmp_path):
    """Configuration, homes, devices and kernel memory do not exist inside, nor does this test's own folder."""
    assert said(sandbox, f"cat {path} 2>/dev/null | head -c 100; ls -A {path}/ 2>/dev/null") == ""
    assert said(sandbox, f"ls -d {tmp_path} {os.getcwd()} 2>/dev/null") == ""


def test_secrets_of_the_environment_stay_outside(sandbox, monkeypatch):
    """No process inside has a variable of ours in its environment."""
    monkeypatch.setenv("TEMPER_TOKEN", SECRET)
    inside = said(sandbox, "env; cat /proc/[0-9]*/environ | tr '\\0' '\\n'")
    assert "PATH=" in inside
    assert SECRET not in inside


def test_open_files_are_not_inherited(sandbox, tmp_path):
    """A file that our process holds open, even inheritably, cannot be read through a descriptor inside."""
    (tmp_path / "open").write_text(SECRET)
    with open(tmp_path / "open") as held:
        os.set_inheritable(held.fileno(), True)
        inside = said(sandbox, "for f in /proc/[0-9]*/fd/*; do timeout 0.2 head -c 99 $f < /dev/null 2>/dev/null; done")
    assert SECRET not in inside


def test_processes_of_the_host_are_out_of_sight_and_reach(sandbox):
    """A process of the host is neither listed nor killed by a signal to its number, or to everybody."""
    with subprocess.Popen(["sleep", "73.5"]) as bystander:
        inside = said(sandbox, f"cat /proc/[0-9]*/cmdline; kill -9 {bystander.pid}; kill -9 -1; kill -9 1; echo alive")
        assert "73.5" not in inside
        assert bystander.poll() is None
        bystander.kill()


@needs_perl
def test_no_socket_of_the_host_answers(sandbox, tmp_path):
    """Neither TCP on loopback nor a unix socket, by path or abstract, can be connected to."""
    path, abstract = str(tmp_path / "s"), "\0temper-escape"
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as unix,
        socket.socket(socket.AF_UNIX) as hidden,
    ):
        for one, name in ((unix, path), (hidden, abstract)):
            one.bind(name)
            one.listen()
        program = (
            "use Socket; socket(A, AF_INET, SOCK_STREAM, 0);"
            f'print "tcp" if connect(A, sockaddr_in({tcp.getsockname()[1]}, inet_aton("127.0.0.1")));'
            f'socket(B, AF_UNIX, SOCK_STREAM, 0); print "path" if connect(B, sockaddr_un("{path}"));'
            'socket(C, AF_UNIX, SOCK_STREAM, 0); print "abstract" if connect(C, sockaddr_un("\\0temper-escape"));'
            'print "done";'
        )
        assert said(sandbox, f"perl -e '{program}'") == "done"


@pytest.mark.parametrize(
    "command",
    [
        "unshare -U true",
        "unshare -Ur true",
        "unshare -m true",
        "unshare -n true",
        "mount -t tmpfs none /tmp",
        "mount -o remount,rw /usr",
        "mount --bind /proc /tmp",
        "umount /proc",
        "chroot /usr true",
        "hostname other",
        "nsenter -t 1 -a true",
        "setpriv --reuid=0 true",
        "su -c true",
        "chown 0 /tmp",
        "mknod /tmp/n b 8 0",
        "nice -n -5 true 2>&1 | grep -v . ; renice -n -5 -p $$",
        "prlimit --nproc=1000 --pid $$",
        "prlimit --as=unlimited --pid $$",
        "echo x > /dev/tty",
        "dd if=/dev/zero of=/proc/sysrq-trigger bs=1 count=1",
    ],
)
def test_no_right_of_root(sandbox, command):
    """Namespaces, mounts, other users, devices and higher limits are refused."""
    assert said(sandbox, f"({command}) > /dev/null 2>&1 && echo done; echo end") == "end\n"


def test_no_capability_and_no_way_to_gain_one(sandbox):
    """All capability sets are empty, and set-user-id programs gain nothing."""
    status = dict(line.split(":", 1) for line in said(sandbox, "cat /proc/self/status").splitlines() if ":" in line)
    assert {status[name].strip() for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"].strip() == "1"


@needs_perl
def test_a_fork_bomb_hurts_only_itself(sandbox):
    """Processes that multiply are over at the deadline, leave nobody behind, and another call beside them works."""
    mark = "temper-fork-bomb-81"
    bomb = threading.Thread(
        target=said, args=(sandbox, f"perl -e '$0 = q({mark}); fork while 1'", Limits(wall_s=1.5, cpu_s=1))
    )
    started = time.monotonic()
    bomb.start()
    assert said(sandbox, "sh -c 'sh -c \"echo works\"'") == "works\n"
    bomb.join(10)
    assert time.monotonic() - started < 5.0
    deadline = time.monotonic() + 2.0  # the kernel takes down a process table of its own after its first process
    while host_processes(mark) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert host_processes(mark) == []


def test_tmp_has_a_size(sandbox):
    """Files of any number take no more than the size of /tmp."""
    fill = "for i in 0 1 2 3 4 5 6 7; do head -c 15000000 /dev/zero > /tmp/f$i; done; cat /tmp/f* | wc -c"
    finished = sandbox.run(["sh", "-c", fill], {}, LIMITS)
    assert 0 < int(finished.stdout) <= TMP_BYTES, finished.stderr


def test_runs_see_nothing_of_each_other(sandbox):
    """Two calls at the same time have different /tmp, processes and shared memory, and the next one starts empty."""
    mark = "temper-other-run-52"
    writer = threading.Thread(
        target=said, args=(sandbox, f"echo {SECRET} > /tmp/{mark}; sleep 1.5", Limits(wall_s=3.0, cpu_s=1))
    )
    writer.start()
    while not sandbox.pids():
        time.sleep(0.01)
    time.sleep(0.3)
    look = "ls -A /tmp /dev/shm; cat /proc/[0-9]*/cmdline | tr '\\0' ' '; cat /proc/sysvipc/shm | wc -l"
    beside = said(sandbox, look)
    writer.join(10)
    after = said(sandbox, look)
    for seen in (beside, after):
        assert mark not in seen
        assert seen.endswith("1\n")  # a heading, no segment


@needs_perl
def test_a_voice_does_not_hold_off_the_deadline(sandbox):
    """A tool that writes a byte at a time, for ever, is over at the deadline too."""
    started = time.monotonic()
    finished = sandbox.run(
        ["perl", "-e", "$| = 1; print 1 while 1"],
        {},
        Limits(wall_s=0.5, cpu_s=5),
    )
    assert finished.ending == "wall"
    assert time.monotonic() - started < 1.5
