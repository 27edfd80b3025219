"""A checkpoint on its way to disk: copied while the learner stands still, written by a thread while it goes on.

    LearnerWorker.begin_save    Writing.hold(tensors) -> copies; Writing.add(file, how it is written from them)
    the thread                  every file is written and forced to disk, then the copies are let go
    LearnerWorker.finish_save   bytes of every file, or what went wrong

Memory, in the host of the rank that writes: with b bytes a number of the policy, (12 + b) for every parameter that is
trained and b for one that is not, from `begin_save` until all is on disk. Never more, as a save waits for the one
before it. With learner.copy_checkpoints=false nothing is copied, and training waits for the disk.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from learner.errors import CheckpointError


class Writing:
    """The files of one checkpoint: with `copied`, written by `run`; otherwise each when it is added."""

    def __init__(self, copied: bool) -> None:
        self.copied = copied
        self._waiting: list[tuple[Path, Callable[[Path], None]]] = []
        self._added: list[Path] = []
        self._held: list[dict | list] = []
        self._failure: CheckpointError | None = None

    def hold(self, state: Mapping[str, Any]) -> Mapping[str, Any]:
        """Tensors, in dicts and lists, as they are now: in host memory that nobody else has, tied where they were."""
        if not self.copied:
            return state
        self._held.append(copies := _copied(state, {}))
        return copies

    def hold_each(self, tensors: Iterable[Tensor]) -> Iterable[Tensor]:
        """The same of tensors that are made one after the other, and whose memory may be used again."""
        if not self.copied:
            return tensors
        self._held.append(copies := [_copied(tensor, {}) for tensor in tensors])
        return copies

    def add(self, path: Path, write: Callable[[Path], None]) -> None:
        """`write(path)` makes a file, or a folder of files, from what is held."""
        self._added.append(path)
        self._waiting.append((path, write))
        if not self.copied:
            try:
                self._write()
            except CheckpointError as error:  # not raised before `run`: other ranks are waiting for this one
                self._failure = self._failure or error

    def run(self) -> dict[str, int]:
        """Write what waits for it and force all to disk; path -> bytes. Raises CheckpointError for what the disk says.

        Whoever wrote a file has to do that: on a shared file system, fsync on another host does nothing for it.
        """
        if self._failure is not None:
            raise self._failure
        self._write()
        files = {file for path in self._added for file in (path.rglob("*") if path.is_dir() else [path])}
        return {str(file): _force(file) for file in sorted(files) if file.is_file()}

    def _write(self) -> None:
        try:
            while self._waiting:
                path, write = self._waiting.pop(0)
                path.parent.mkdir(parents=True, exist_ok=True)
                write(path)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"cannot write {path} of the learner's checkpoint: {error}") from error
        finally:
            for copies in self._held:
                copies.clear()  # or an error would keep them, by the frames it has come through


class BackgroundWriter:
    """Runs one `Writing` after the other in a thread of its own."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._begun: dict[Path, Future[dict[str, int]]] = {}

    def wait(self) -> None:
        """Until the thread has nothing to do, and so holds nothing. What went wrong is told to whoever asks for it."""
        self._thread.submit(int).result()

    def begin(self, folder: Path, writing: Writing) -> None:
        self._begun[folder] = self._thread.submit(writing.run)

    def begun(self, folder: Path) -> "Future[dict[str, int]]":
        """The answer of what was begun under the name of this folder; it is given once. Raises CheckpointError."""
        if folder not in self._begun:
            raise CheckpointError(f"no checkpoint is being written to {folder}: ask for one with begin_save")
        return self._begun.pop(folder)


def _copied(state: Any, known: dict[tuple, Tensor]) -> Any:
    if isinstance(state, dict):
        return {name: _copied(one, known) for name, one in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(_copied(one, known) for one in state)
    if not isinstance(state, Tensor):
        return state
    place = (state.device, state.data_ptr(), state.dtype, state.shape, state.stride())
    if place not in known:
        known[place] = state.detach().to("cpu", copy=True)
    return known[place]


def _force(file: Path) -> int:
    with file.open("rb") as opened:
        try:
            os.fsync(opened.fileno())
        except OSError as error:
            raise CheckpointError(f"cannot write {file} of the learner's checkpoint: {error}") from error
        return os.fstat(opened.fileno()).st_size
