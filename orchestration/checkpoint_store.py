"""Checkpoints on disk: a folder per version that is either complete or not there.

    checkpoints/.writing-version_000020-5f2c/   the learner writes here, then state.json and manifest.json
        --fsync, rename-->
    checkpoints/version_000020/                 appears in one step
    checkpoints/latest -> version_000020        moved in one step; what a resume starts from
    checkpoints/best -> version_000010          of those that were evaluated, the one with the highest score

The last few are kept, and besides them the best few. A score (score.json) belongs to the folder it lies in, so it goes
when the steps are rolled back. An evaluation may end long after later checkpoints are written: the one that it is of
stays until then (`await_score`).

A manifest holds the size of every file, and the checksum of those up to `CHECKSUM_LIMIT_BYTES`; it is checked before a
checkpoint is used. One that is damaged is passed over, with a warning, for the one before it.
"""

import asyncio
import errno
import json
import logging
import os
import secrets
import shutil
import socket
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import xxhash

from orchestration.actions import SchedulerState
from orchestration.errors import CheckpointError

log = logging.getLogger(__name__)

LATEST = "latest"
BEST = "best"
PREFIX = "version_"
WRITING = ".writing-"
MANIFEST = "manifest.json"
STATE = "state.json"
SCORE = "score.json"  # not in the manifest: it comes later
# A larger file would make every resume read all of the weights twice; a lost tail, the usual damage, shows in the size.
CHECKSUM_LIMIT_BYTES = 64 * 2**20
# Where less than this is free after a failed write, the disk is taken to be full, whatever the writing library says.
FULL_BYTES = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedCheckpoint:
    """A checkpoint found intact: the learner's files are in `folder`, `state` is the scheduler's at that version."""

    version: int
    folder: Path
    state: SchedulerState


class CheckpointStore:
    """The checkpoints of one run. One process writes at a time (the journal's lock sees to it)."""

    def __init__(self, folder: Path, keep_last: int, keep_best: int = 0) -> None:
        if keep_last < 1 or keep_best < 0:
            raise ValueError(f"keep_last is at least 1 and keep_best at least 0, got {keep_last} and {keep_best}")
        self.folder = folder
        self.keep_last = keep_last
        self.keep_best = keep_best
        self._newest: int | None = None  # that this process wrote
        self._scores: dict[int, float] = {}  # of versions whose folder may not be there yet
        self._awaited: set[int] = set()
        self._tidying = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(f"{WRITING}*"):  # of a process that was killed
            _discard(leftover)

    async def write(self, version: int, state: SchedulerState, save: Callable[[Path], Awaitable[None]]) -> None:
        """Call `save(folder)`, then make the folder a checkpoint. `save` is called before the first wait.

        So where the caller starts this before the next step, the learner is asked to save before it is asked to train.
        The folder has a new name each time: a learner whose driver was killed may be writing to the one before.
        Raises CheckpointError when the disk is full; whatever else `save` raises passes through. In both cases nothing
        is left of the attempt, and earlier checkpoints are as they were.
        """
        partial = self.folder / f"{WRITING}{PREFIX}{version:06d}-{secrets.token_hex(2)}"
        try:
            partial.mkdir()
            await save(partial)
            await asyncio.to_thread(self._finish, partial, version, state)
        except Exception as error:
            written = _size(partial)
            full = _is_disk_full(error, self.folder)
            _discard(partial)
            if not full:
                raise
            raise CheckpointError(self._describe_full_disk(version, written)) from error

    def await_score(self, version: int) -> None:
        """An evaluation of this version begins: keep its checkpoint, if there is one, until `score`."""
        self._awaited.add(version)

    async def score(self, version: int, value: float) -> None:
        """The evaluation of this version ended; the higher the better. It does not matter which is there first."""
        self._awaited.discard(version)
        self._scores[version] = value
        await asyncio.to_thread(self._tidy)

    def latest(self) -> SavedCheckpoint | None:
        """The checkpoint to resume from, or None where there is none. Raises CheckpointError if all are damaged."""
        versions = self._versions()
        pointed = self._pointed_version()
        for version in reversed(versions):
            if pointed is not None and version > pointed:
                continue  # it belongs to steps that were rolled back
            folder = self._path(version)
            if (damage := damage_of(folder)) is None:
                state = SchedulerState.from_json(json.loads((folder / STATE).read_text()))
                return SavedCheckpoint(version=version, folder=folder, state=state)
            log.warning("checkpoint %s is damaged (%s); trying the one before it", folder, damage)
        if versions:
            raise CheckpointError(
                f"none of the {len(versions)} checkpoints in {self.folder} can be resumed from (`latest` points to"
                f" version {pointed}): start a new run, or point `latest` to one that is whole"
            )
        return None

    def rewind(self, version: int) -> None:
        """Let a resume start from this version; newer ones stay until the resumed run writes its first."""
        if not self._path(version).is_dir():
            raise CheckpointError(
                f"there is no checkpoint of version {version} in {self.folder}, only {self._versions()}"
            )
        self._point(version)

    def _finish(self, partial: Path, version: int, state: SchedulerState) -> None:
        (partial / STATE).write_text(json.dumps(state.as_json()))
        (partial / MANIFEST).write_text(json.dumps({"version": version, "files": _measure(partial)}, indent=1))
        _sync(partial)
        target = self._path(version)
        with self._tidying:
            _remove(target)  # from steps that were rolled back
            partial.rename(target)
            self._point(version)
            self._newest = version
        self._tidy()

    def _point(self, version: int, name: str = LATEST) -> None:
        temporary = self.folder / f"{WRITING}{name}"
        _remove(temporary)
        temporary.symlink_to(self._path(version).name)
        temporary.replace(self.folder / name)
        _sync_one(self.folder)

    def _tidy(self) -> None:
        """Keep the last few and the best; what is newer than this process's newest was rolled back."""
        with self._tidying:
            if self._newest is None:  # then nobody knows yet which are
                return
            present = [version for version in self._versions() if version <= self._newest]
            for version in set(present) & self._scores.keys():
                self._write_score(version, self._scores.pop(version))
            scores = {version: score for version in present if (score := self._read_score(version)) is not None}
            best = sorted(scores, key=lambda version: (-scores[version], -version))[: self.keep_best]
            if best:
                self._point(best[0], BEST)
            else:
                _remove(self.folder / BEST)
            kept = {*present[-self.keep_last :], *best, *self._awaited.intersection(present)}
            for version in set(self._versions()) - kept:
                _discard(self._path(version))

    def _write_score(self, version: int, value: float) -> None:
        partial = self.folder / f"{WRITING}{SCORE}"
        partial.write_text(json.dumps({"score": value}))
        _sync_one(partial)
        partial.replace(self._path(version) / SCORE)

    def _read_score(self, version: int) -> float | None:
        file = self._path(version) / SCORE
        return float(json.loads(file.read_text())["score"]) if file.is_file() else None

    def _path(self, version: int) -> Path:
        return self.folder / f"{PREFIX}{version:06d}"

    def _versions(self) -> list[int]:
        found = (path.name.removeprefix(PREFIX) for path in self.folder.glob(f"{PREFIX}*") if path.is_dir())
        return sorted(int(number) for number in found if number.isdecimal())

    def _pointed_version(self) -> int | None:
        """Where `latest` points; None where there is no such link, or a person has pointed it elsewhere."""
        link = self.folder / LATEST
        number = os.readlink(link).removeprefix(PREFIX) if link.is_symlink() else ""
        return int(number) if number.isdecimal() else None

    def _describe_full_disk(self, version: int, written: int) -> str:
        versions = self._versions()
        needed = max([written, *(_size(self._path(earlier)) for earlier in versions[-1:])])
        intact = f"version {versions[-1]} is still there to resume from" if versions else "there is no earlier one"
        return (
            f"disk full while writing the checkpoint of version {version} to {self.folder}: it needs at least"
            f" {needed:,} bytes and {shutil.disk_usage(self.folder).free:,} are free; free some, or set run.dir to a"
            f" larger disk ({intact})"
        )


def _measure(folder: Path) -> dict[str, dict[str, int | str]]:
    """Relative path -> size in bytes, and xxh3_128 where the file is not too large for it."""
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST):
        entry: dict[str, int | str] = {"bytes": path.stat().st_size}
        if entry["bytes"] <= CHECKSUM_LIMIT_BYTES:
            entry["xxh3_128"] = xxhash.xxh3_128_hexdigest(path.read_bytes())
        files[path.relative_to(folder).as_posix()] = entry
    return files


def damage_of(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None where it is as it was written."""
    try:
        expected = json.loads((folder / MANIFEST).read_text())["files"]
        found = _measure(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"its manifest or a file cannot be read: {error}"
    for name, entry in expected.items():
        if name not in found:
            return f"{name} is missing"
        if found[name]["bytes"] != entry["bytes"]:
            return f"{name} has {found[name]['bytes']} bytes instead of {entry['bytes']}"
        if found[name] != entry:
            return f"{name} has another checksum than when it was written"
    return None if STATE in expected else f"{STATE} is missing"


def _sync(folder: Path) -> None:
    """Force files and folders to disk, innermost first: the rename must not become durable before what it names."""
    for path in sorted(folder.rglob("*"), reverse=True):
        _sync_one(path)
    _sync_one(folder)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def check_arrived(files: Mapping[str, int], writer: str) -> None:
    """Raise CheckpointError unless all files that `writer` has written, of so many bytes, are seen here."""
    for file, written in files.items():
        path = Path(file)
        found = f"{path.stat().st_size:,}" if path.is_file() else "none"
        if found != f"{written:,}":
            raise CheckpointError(
                f"{writer} wrote {written:,} bytes to {file}, and the driver on {socket.gethostname()} finds {found}:"
                " set run.dir to a folder on a file system that both share"
            )


def _discard(path: Path) -> None:
    """Remove what nobody needs. What cannot go yet, as NFS keeps what some process has open, goes another time."""
    try:
        _remove(path)
    except OSError as error:
        log.warning("%s cannot be removed now (%s)", path, error)


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def _is_disk_full(error: BaseException | None, folder: Path) -> bool:
    """True for ENOSPC or a used-up quota anywhere in the chain of causes, and where the disk has no room left.

    torch and safetensors turn the system's error into their own, and Ray puts it into a string.
    """
    if shutil.disk_usage(folder).free < FULL_BYTES:
        return True
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if os.strerror(errno.ENOSPC) in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
