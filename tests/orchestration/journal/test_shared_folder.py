"""A run folder that other hosts see: nobody reads a WAL along, and a second driver is refused or told why not."""

import errno
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from orchestration import events
from orchestration.errors import JournalError
from orchestration.journal import Journal
from orchestration.journal.file_system import MOUNTS, file_system_of, is_local

MOUNTED = r"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:26 / /home rw,relatime - nfs4 server:/home rw,vers=4.2
31 30 0:27 / /home/of\040all rw - ext4 /dev/vdb rw
32 22 0:28 / /scratch rw master:2 shared:3 - ext4 /dev/vdc rw
33 32 0:29 / /scratch rw - lustre mgs:/scratch rw,flock
34 22 0:30 / /mnt/bucket rw - fuse.s3fs s3fs rw
"""
WRITER = """
import os, signal, sys
from pathlib import Path
from orchestration import events
from orchestration.journal import Journal, journal
journal.is_local = lambda path: False
opened = Journal.open(Path(sys.argv[1]))
opened.resume(0)
opened.record(events.WorkerLost(worker="rollout-7"))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/data/run", "ext4"),
        ("/home/me/run", "nfs4"),
        ("/homes/run", "ext4"),
        ("/home/of all/run", "ext4"),
        ("/scratch/run", "lustre"),
        ("/mnt/bucket", "fuse.s3fs"),
    ],
)
def test_the_innermost_mount_counts_and_of_two_the_last(path: str, found: str) -> None:
    assert file_system_of(Path(path), MOUNTED) == found


def test_the_file_systems_of_this_machine_are_found(tmp_path: Path) -> None:
    """Where temporary files are, and one of which everybody knows the type."""
    assert is_local(tmp_path)
    assert file_system_of(Path("/proc/self"), MOUNTS.read_text()) == "proc"
    assert not is_local(Path("/proc"))


@pytest.fixture
def elsewhere(monkeypatch) -> None:
    """Every folder is on a file system that hosts share."""
    monkeypatch.setattr("orchestration.journal.journal.is_local", lambda path: False)


def test_on_a_shared_file_system_nobody_shares_memory_with_the_driver(tmp_path: Path, elsewhere: None) -> None:
    """No index beside the WAL; readers are refused while it is open, and find everything afterwards."""
    path = tmp_path / "journal.sqlite"
    with Journal.open(path) as journal:
        journal.resume(0)
        journal.record(events.WorkerLost(worker="rollout-7"))
        assert journal.leftovers() == {}
        assert sorted(file.name for file in tmp_path.iterdir()) == [
            "journal.lock",
            "journal.sqlite",
            "journal.sqlite-wal",
        ]
        reader = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=0)
        with pytest.raises(sqlite3.OperationalError, match="database is locked"):
            reader.execute("SELECT * FROM events").fetchall()
        reader.close()
    reader = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=0)
    assert [kind for (kind,) in reader.execute("SELECT kind FROM events")] == ["WorkerLost"]
    reader.close()


@pytest.mark.parametrize("local", [True, False])
def test_what_a_killed_driver_wrote_there_is_found_by_the_next(tmp_path: Path, local: bool, monkeypatch) -> None:
    """By one on the same kind of file system, and by one on another, where the folder was moved to."""
    path = tmp_path / "journal.sqlite"
    killed = subprocess.run([sys.executable, "-c", WRITER, path], timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL
    monkeypatch.setattr("orchestration.journal.journal.is_local", lambda _: local)
    with Journal.open(path) as journal:
        journal.resume(0)
        assert (tmp_path / "journal.sqlite-shm").exists() == local
    reader = sqlite3.connect(path)
    assert reader.execute("SELECT kind FROM events").fetchall() == [("WorkerLost",)]
    assert reader.execute("SELECT count(*) FROM lineages").fetchone() == (2,)
    reader.close()


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch) -> None:
    """Rather than driven by two."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(JournalError, match=r"has no locks \(.*Function not implemented\).* set run.dir to another"):
        Journal.open(tmp_path / "journal.sqlite")
