"""A checkpoint is whole or not there, and a full or damaged disk never costs an earlier one."""

import asyncio
import errno
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestration.actions import SchedulerState
from orchestration.checkpoint_store import CheckpointStore
from orchestration.errors import CheckpointError


def state(version: int) -> SchedulerState:
    return SchedulerState(
        version=version,
        evaluated=0,
        trained_groups=2 * version,
        untrained_tasks=(2 * version, 2 * version + 1),
        next_task=2 * version + 2,
    )


def write(store: CheckpointStore, version: int, size: int = 100) -> None:
    async def save(folder: Path) -> None:
        (folder / "rank0").mkdir()
        (folder / "rank0" / "optimizer.pt").write_bytes(bytes(size))
        (folder / "weights.safetensors").write_bytes(version.to_bytes(4, "big") * 25)

    asyncio.run(store.write(version, state(version), save))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints", keep_last=2)


def test_what_is_written_is_found_again(store: CheckpointStore) -> None:
    """The newest one, with the learner's files and the scheduler's state."""
    assert store.latest() is None
    write(store, 10)
    write(store, 20)
    found = CheckpointStore(store.folder, keep_last=2).latest()
    assert (found.version, found.state, found.folder.name) == (20, state(20), "version_000020")
    assert (found.folder / "weights.safetensors").read_bytes() == (20).to_bytes(4, "big") * 25
    assert (store.folder / "latest").readlink() == Path("version_000020")


def test_only_the_last_few_are_kept(store: CheckpointStore) -> None:
    for version in (10, 20, 30):
        write(store, version)
    assert names(store.folder) == ["latest", "version_000020", "version_000030"]


def test_the_best_are_kept_besides_the_last(tmp_path: Path) -> None:
    """Of equal scores the newer one; `best` points to it, and a score that comes before its checkpoint counts."""
    store = CheckpointStore(tmp_path / "checkpoints", keep_last=1, keep_best=2)
    scores = {10: 0.5, 20: 0.9, 30: 0.7, 40: 0.9, 50: 0.1, 60: 0.2}
    for version, score in scores.items():
        if version == 40:
            asyncio.run(store.score(version, score))
        write(store, version)
        if version != 40:
            asyncio.run(store.score(version, score))
    assert names(store.folder) == ["best", "latest", "version_000020", "version_000040", "version_000060"]
    assert (store.folder / "best").readlink() == Path("version_000040")
    assert store.latest().version == 60
    again = CheckpointStore(store.folder, keep_last=1, keep_best=1)  # after a restart the scores are still known
    write(again, 70)
    assert names(store.folder) == ["best", "latest", "version_000040", "version_000070"]


def test_a_checkpoint_stays_until_its_evaluation_has_ended(tmp_path: Path) -> None:
    """However many later ones are written meanwhile."""
    store = CheckpointStore(tmp_path / "checkpoints", keep_last=1, keep_best=1)
    store.await_score(10)
    for version in (10, 20, 30):
        write(store, version)
    assert names(store.folder) == ["latest", "version_000010", "version_000030"]
    asyncio.run(store.score(10, 0.5))
    assert names(store.folder) == ["best", "latest", "version_000010", "version_000030"]


def test_the_best_of_rolled_back_steps_is_not_the_best(tmp_path: Path) -> None:
    """Its score goes with it: the version of the new lineage has its own, and none before it is evaluated."""
    store = CheckpointStore(tmp_path / "checkpoints", keep_last=2, keep_best=1)
    write(store, 10)
    asyncio.run(store.score(10, 0.3))
    write(store, 20)
    asyncio.run(store.score(20, 0.9))
    store.rewind(10)
    resumed = CheckpointStore(store.folder, keep_last=2, keep_best=1)
    asyncio.run(resumed.score(20, 0.1))  # evaluated by the new lineage while the old folder is still there
    assert json.loads((store.folder / "version_000020" / "score.json").read_text()) == {"score": 0.9}
    write(resumed, 15)
    assert names(store.folder) == ["best", "latest", "version_000010", "version_000015"]
    assert (store.folder / "best").readlink() == Path("version_000010")
    write(resumed, 20)
    assert json.loads((store.folder / "version_000020" / "score.json").read_text()) == {"score": 0.1}


def test_save_is_called_before_the_first_wait(store: CheckpointStore) -> None:
    """Started before a training step, it reaches the learner before that step."""
    order = []

    async def save(folder: Path) -> None:
        order.append("save")

    async def train() -> None:
        order.append("train")

    async def both() -> None:
        checkpoint = asyncio.create_task(store.write(1, state(1), save))
        await asyncio.gather(checkpoint, asyncio.create_task(train()))

    asyncio.run(both())
    assert order == ["save", "train"]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "weights.safetensors").unlink(), "weights.safetensors is missing"),
        (lambda folder: (folder / "rank0" / "optimizer.pt").write_bytes(b"short"), "has 5 bytes instead of 100"),
        (lambda folder: (folder / "rank0" / "optimizer.pt").write_bytes(b"x" * 100), "has another checksum"),
        (lambda folder: (folder / "manifest.json").unlink(), "its manifest or a file cannot be read"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "its manifest or a file cannot be read"),
        (lambda folder: shutil.rmtree(folder), None),
    ],
)
def test_a_damaged_checkpoint_is_passed_over(store: CheckpointStore, caplog, damage, said: str | None) -> None:
    """With a warning that says what is wrong with it."""
    write(store, 10)
    write(store, 20)
    damage(store.folder / "version_000020")
    with caplog.at_level(logging.WARNING):
        assert store.latest().version == 10
    assert said is None or said in caplog.text


def test_where_all_are_damaged_the_run_does_not_silently_start_anew(store: CheckpointStore) -> None:
    write(store, 10)
    (store.folder / "version_000010" / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="none of the 1 checkpoints"):
        store.latest()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        RuntimeError("an actor said: [Errno 28] No space left on device"),
    ],
)
def test_a_full_disk_is_one_sentence_and_leaves_the_earlier_checkpoint(store: CheckpointStore, error) -> None:
    """With folder, needed and free bytes; nothing of the attempt stays."""
    write(store, 10, size=5_000)

    async def save(folder: Path) -> None:
        (folder / "half").write_bytes(bytes(1_000))
        raise error

    message = (
        rf"disk full while writing the checkpoint of version 20 to {re.escape(str(store.folder))}: it needs at least"
        r" 5,\d{3} bytes and [\d,]+ are free; .*\(version 10 is still there to resume from\)$"
    )
    with pytest.raises(CheckpointError, match=message) as raised:
        asyncio.run(store.write(20, state(20), save))
    assert raised.value.__cause__ is error
    assert names(store.folder) == ["latest", "version_000010"]
    assert store.latest().version == 10


def test_another_failure_passes_through(store: CheckpointStore) -> None:
    """A fault of the learner is not called a full disk; nothing of the attempt stays."""

    async def save(folder: Path) -> None:
        (folder / "half").write_bytes(bytes(1_000))
        raise ZeroDivisionError("the learner's own")

    with pytest.raises(ZeroDivisionError, match="the learner's own"):
        asyncio.run(store.write(20, state(20), save))
    assert names(store.folder) == []


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small tmpfs cannot be mounted here, which takes root: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_is_really_full(tiny_disk: Path) -> None:
    """The first checkpoint of 2 MB fits into 4 MiB, the second does not, and the first can still be resumed from."""
    store = CheckpointStore(tiny_disk / "checkpoints", keep_last=2)
    write(store, 10, size=2_000_000)
    with pytest.raises(CheckpointError, match="disk full while writing the checkpoint of version 20"):
        write(store, 20, size=3_000_000)
    assert names(store.folder) == ["latest", "version_000010"]
    assert store.latest().version == 10
    write(store, 20, size=1_000_000)
    assert store.latest().version == 20


def test_a_killed_writer_leaves_nothing_that_counts(store: CheckpointStore) -> None:
    """What it left behind is swept away by the next process."""
    write(store, 10)
    half = store.folder / ".writing-version_000020-00ff"
    half.mkdir()
    (half / "weights.safetensors").write_bytes(b"half")
    (store.folder / ".writing-latest").symlink_to("version_000020")
    assert store.latest().version == 10
    assert CheckpointStore(store.folder, keep_last=2).latest().version == 10
    assert names(store.folder) == ["latest", "version_000010"]


KILLED_WHILE_WRITING = """
import asyncio, os, signal, sys
from pathlib import Path
import torch
from learner.writing import BackgroundWriter, Writing
from orchestration.checkpoint_store import CheckpointStore
from tests.orchestration.test_checkpoint_store import state

def saving(version):
    async def save(folder):
        writing = Writing(copied=True)
        held = writing.hold({"weights": torch.full((1000,), version, dtype=torch.uint8)})

        def write(file):
            content = held["weights"].numpy().tobytes()
            with file.open("wb") as opened:
                opened.write(content[:500])
                opened.flush()
                if version == 20:
                    os.kill(os.getpid(), signal.SIGKILL)
                opened.write(content[500:])

        writing.add(folder / "weights", write)
        writer = BackgroundWriter()
        writer.begin(folder, writing)
        await asyncio.wrap_future(writer.begun(folder))
    return save

store = CheckpointStore(Path(sys.argv[1]), keep_last=1)
for version in (10, 20):
    asyncio.run(store.write(version, state(version), saving(version)))
"""


def test_a_kill_in_the_middle_of_a_background_write_costs_that_checkpoint_alone(tmp_path: Path) -> None:
    """With keep_last=1: the one before is whole, and the next process writes the lost one again."""
    folder = tmp_path / "checkpoints"
    killed = subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING, folder], timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL
    [half] = folder.glob(".writing-version_000020-*/weights")
    assert half.stat().st_size == 500
    store = CheckpointStore(folder, keep_last=1)
    assert not half.exists()
    found = store.latest()
    assert (found.version, found.state) == (10, state(10))
    assert (found.folder / "weights").read_bytes() == bytes([10]) * 1000
    write(store, 20)
    assert names(folder) == ["latest", "version_000020"]


def test_a_learner_that_outlives_its_driver_does_not_write_into_the_next_attempt(store: CheckpointStore) -> None:
    """Each attempt has a folder of its own."""
    folders = []

    async def save(folder: Path) -> None:
        folders.append(folder)
        raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            asyncio.run(store.write(10, state(10), save))
    assert folders[0] != folders[1]


def test_what_cannot_be_removed_yet_stops_nobody(store: CheckpointStore, caplog, monkeypatch) -> None:
    """As NFS keeps a folder in which some process has a file open: a warning, and another try with the next one."""

    def refuse(path: Path) -> None:
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(path))

    for version in (10, 20):
        write(store, version)
    with monkeypatch.context() as busy:
        busy.setattr("shutil.rmtree", refuse)
        write(store, 30)
    assert store.latest().version == 30
    assert "version_000010 cannot be removed now" in caplog.text
    assert names(store.folder) == ["latest", "version_000010", "version_000020", "version_000030"]
    write(store, 40)
    assert names(store.folder) == ["latest", "version_000030", "version_000040"]


def test_rewinding_leaves_the_newer_ones_until_the_new_lineage_has_written(store: CheckpointStore) -> None:
    """A resume from version 10 must not jump to 20 after its next crash, and then the old 20 has to go."""
    write(store, 10)
    write(store, 20)
    store.rewind(10)
    assert store.latest().version == 10
    assert names(store.folder) == ["latest", "version_000010", "version_000020"]
    write(store, 15)
    assert names(store.folder) == ["latest", "version_000010", "version_000015"]
    write(store, 20)
    write(store, 20)  # written again over itself
    assert store.latest().version == 20
    with pytest.raises(CheckpointError, match=r"no checkpoint of version 10 .* only \[15, 20\]"):
        store.rewind(10)


def test_large_files_are_checked_by_size_alone(store: CheckpointStore, monkeypatch) -> None:
    """Above the limit no checksum is made; a lost tail is still noticed."""
    monkeypatch.setattr("orchestration.checkpoint_store.CHECKSUM_LIMIT_BYTES", 500)
    write(store, 10, size=501)
    folder = store.folder / "version_000010"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["files"]["rank0/optimizer.pt"] == {"bytes": 501}
    assert set(manifest["files"]["weights.safetensors"]) == {"bytes", "xxh3_128"}
    (folder / "rank0" / "optimizer.pt").write_bytes(bytes(500))
    with pytest.raises(CheckpointError):
        store.latest()


def test_keeping_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep_last is at least 1 and keep_best at least 0, got 0 and 0"):
        CheckpointStore(tmp_path, keep_last=0)
