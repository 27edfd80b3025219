"""A template process as the service sees it: started in isolation, asked for workers, replaced once it has died.

    Template --bubblewrap--> reward.child: libraries imported once
        fork() --a channel--> a new worker at its other end

Everything that runs on a response in Python runs below such a process: its command line, its view of the file system
and its environment are decided here.
"""

import contextlib
import importlib.util
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

from reward.child import READY
from reward.config import ChildConfig, Isolation
from reward.deadline import Deadline
from reward.errors import ToolError
from reward.sandbox import bubblewrap_prefixes

SEAL = "--remount-ro"
IN_EVERY_VIEW = ("/usr", "/bin", "/lib", "/lib64", "/sbin")
LINKER_CACHE = "/etc/ld.so.cache"  # a Python in /usr/local may find its own library only through it
PACKAGE_FOLDERS = ("site-packages", "dist-packages")
ORDERLY_S = 1.0  # for a template to end by itself
SAID_CHARS = 300  # of a failed start's last line
KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)  # as we see it, as bubblewrap reports it


class TemplateGone(Exception):
    """The process has ended, or takes no request: another one is worth a try."""


class Template:
    """One process, from its start to its end. Safe to share between threads; building one does not wait for it."""

    def __init__(self, target: str, example: dict[str, Any] | None, config: ChildConfig, isolation: Isolation) -> None:
        self._target = target
        self._start_s = config.start_s
        arguments = ["-P", "-s", "-m", "reward.child", target, str(config.memory_bytes), json.dumps(example)]
        self._commands = command_lines([sys.executable, *arguments], target, isolation)
        self._environment = environment(target)
        self._changed = threading.Condition()
        self._state: Literal["starting", "ready", "gone"] = "starting"
        self._failed = ""  # a sentence, where it could not start
        self._control: socket.socket | None = None
        self._pidfd: int | None = None  # unlike a number, it never comes to mean another process
        self.pid: int | None = None  # of the outermost process: killing it kills all
        self._keeper = threading.Thread(target=self._keep, name=f"template-{target}", daemon=True)
        self._keeper.start()

    @property
    def gone(self) -> bool:
        return self._state == "gone"

    def wait_ready(self, deadline: Deadline | None) -> bool:
        """False past the deadline (None: as long as a start may take).

        Raises ToolError where it cannot start, TemplateGone where it was killed meanwhile or has ended since.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._state != "starting", None if deadline is None else deadline.left_s())
            if self._failed:
                raise ToolError(self._failed)
            if self._state == "gone":
                raise TemplateGone
            return self._state == "ready"

    def fork(self) -> socket.socket:
        """Our end of the channel to a new worker. Raises TemplateGone."""
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)  # its first byte will come with its pid
        with theirs, self._changed:
            try:
                if self._control is None:
                    raise TemplateGone
                socket.send_fds(self._control, [b"f"], [theirs.fileno()], socket.MSG_DONTWAIT)
            except (OSError, TemplateGone) as error:
                ours.close()
                self.kill()
                raise TemplateGone from error
        return ours

    def kill(self) -> None:
        """End it and all its workers; does not wait."""
        with self._changed:
            self._state = "gone"
            self._changed.notify_all()
            if self._pidfd is not None:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def close(self) -> None:
        """Let it end its workers and all they started, then itself; a deaf one is killed."""
        with self._changed:
            if self._control is not None:
                self._state = "gone"
                self._control.shutdown(socket.SHUT_RDWR)
        if self._control is None or not self.ended(ORDERLY_S):
            self.kill()
            self.ended()

    def ended(self, within_s: float | None = None) -> bool:
        """Wait for its end, and its burial."""
        self._keeper.join(within_s)
        return not self._keeper.is_alive()

    def _keep(self) -> None:
        """Start it and wait for its end. One thread does both: what dies with its parent dies with its thread."""
        failed = self._sentence("nothing")
        try:
            for command in self._commands:
                failed = self._live(command)
                if not failed or self.gone:
                    break
        finally:  # whatever happened here, nobody must wait for it
            with self._changed:
                self._state, self._failed = "gone", failed
                self._changed.notify_all()

    def _live(self, command: Sequence[str]) -> str:
        """One process from start to end; a sentence where it could not start, empty for any later end."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, os.fdopen(os.memfd_create("stderr"), "w+b", buffering=0) as errors:
            with theirs:
                try:
                    process = self._popen(command, theirs, errors)
                except OSError as error:
                    return self._sentence(f"{command[0]}: {error.strerror}")
            pidfd = os.pidfd_open(process.pid)
            with self._changed:
                self.pid, self._pidfd = process.pid, pidfd
                killed = self.gone
            if killed:  # before it had a pidfd to be killed by
                self.kill()
            late = not select.select([ours, pidfd], [], [], self._start_s)[0]
            ready = not late and said_ready(ours)
            if ready:
                with self._changed:
                    if not self.gone:
                        self._state, self._control = "ready", ours
                    self._changed.notify_all()
            elif late:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # bubblewrap, killed at birth, leaves a child that waits for it
            status = process.wait()
            with self._changed:
                self._control, self._pidfd = None, None
            os.close(pidfd)
            if late:
                return self._sentence(f"it is not ready after {self._start_s:g} s")
            if ready or status in KILLED:
                return ""
            errors.seek(0)
            said = errors.read().decode(errors="replace").split("\n")
            return self._sentence(next((line for line in reversed(said) if line.strip()), f"exit status {status}"))

    def _popen(self, command: Sequence[str], control: socket.socket, errors: BinaryIO) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            stdin=control,
            stdout=errors,
            stderr=errors,
            env=self._environment,
            cwd="/",
            start_new_session=True,
        )

    def _sentence(self, said: str) -> str:
        return (
            f"the process that judges with {self._target} cannot start (it said: {said[:SAID_CHARS]}): check that"
            f" `{sys.executable} -c 'import {module_of(self._target)}'` works"
        )


def said_ready(control: socket.socket) -> bool:
    try:
        return control.recv(len(READY), socket.MSG_DONTWAIT) == READY
    except (BlockingIOError, ConnectionError):
        return False


def command_lines(argv: Sequence[str], target: str, isolation: Isolation) -> list[list[str]]:
    """Forms of the command, best first; the first that starts is used. Raises SandboxError without bubblewrap."""
    if isolation == "unsafe":
        return [list(argv)]
    view = [argument for path in seen_paths(target) for argument in ("--ro-bind", path, path)]
    lines = []
    for prefix in bubblewrap_prefixes():
        whole = prefix.index(SEAL) if SEAL in prefix else len(prefix)  # mount points cannot be made in a sealed view
        lines.append([*prefix[:whole], *view, *prefix[whole:], "--chdir", "/", "--", *argv])
    return lines


def seen_paths(target: str) -> list[str]:
    """What a sandboxed Python needs to see: itself, installed packages, ours, and the target's own; nothing beside."""
    wanted = [sys.prefix, sys.base_prefix, *package_folders(), *own_packages(target)]
    if os.path.exists(LINKER_CACHE):
        wanted.append(LINKER_CACHE)
    seen: list[str] = []
    for path in sorted({*map(os.path.abspath, wanted), *map(os.path.realpath, wanted)}):
        if not any(Path(path).is_relative_to(above) for above in (*IN_EVERY_VIEW, *seen)):
            seen.append(path)
    return seen


def environment(target: str) -> dict[str, str]:
    """No variable of the service's own reaches a worker: keys and tokens are there."""
    roots = [os.path.dirname(path) for path in own_packages(target)]
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": "/tmp",
        "LC_ALL": "C.UTF-8",
        "PYTHONPATH": os.pathsep.join(dict.fromkeys([*roots, *package_folders()])),
        "OMP_NUM_THREADS": "1",  # the template forks, so it must have one thread
        "OPENBLAS_NUM_THREADS": "1",
    }


def package_folders() -> list[str]:
    return [path for path in sys.path if Path(path).name in PACKAGE_FOLDERS and os.path.isdir(path)]


def own_packages(target: str) -> list[str]:
    """Files or folders of the `reward` package and of the target's top-level module. Raises ToolError."""
    paths = []
    for name in dict.fromkeys(("reward", module_of(target).partition(".")[0])):
        spec = importlib.util.find_spec(name)
        if spec is None:
            raise ToolError(f"there is no module {name} to judge with: check PYTHONPATH, or install the package")
        paths.append(os.path.abspath(*spec.submodule_search_locations or [spec.origin]))
    return paths


def module_of(target: str) -> str:
    return target.partition(":")[0]
