"""Where a tool runs on text that a policy wrote: an isolated, limited, killable process group.

    argv + files --> bwrap --> prlimit --> tool ... --> Finished(ending, stdout, stderr)

bubblewrap gives a view of the system with a read-only /usr, an empty /tmp, a private process table, no network and no
user but `nobody`. prlimit bounds CPU, address space, file size and processes. The reader bounds bytes of output and
wall-clock time, and kills the whole group past either. Nothing of a run stays on the host: input files are handed over
as anonymous memory, and what the tool writes dies with its /tmp.
"""

import contextlib
import functools
import logging
import os
import selectors
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from reward.config import Isolation
from reward.errors import SandboxError, ToolError

log = logging.getLogger(__name__)

NOBODY = "65534"
WORK = "/tmp"  # inside the sandbox, an empty tmpfs of its own
TMP_BYTES = 64 << 20
NO_USER_NAMESPACES = ("--unshare-user", "--disable-userns")
READ_BYTES = 1 << 16
PROBE_S = 20.0
CPU_GRACE_S = 1  # between SIGXCPU, which says why, and SIGKILL, which cannot be ignored
SHELL_SIGNAL_BASE = 128  # a shell reports a child's death by signal n as exit status 128 + n


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one tool call may use. Seconds, bytes, processes."""

    wall_s: float
    cpu_s: int
    memory_bytes: int = 1 << 30
    file_bytes: int = 16 << 20
    output_bytes: int = 8 << 20
    processes: int = 64


class Ending(StrEnum):
    """How a tool call ended, by who ended it."""

    EXITED = "exited"  # by itself, or by a fault of its own
    CPU = "cpu"  # the kernel, at its CPU limit
    WALL = "wall"  # us, at the deadline
    OUTPUT = "output"  # us, at the output cap
    FILE = "file"  # the kernel, at the file size limit
    KILLED = "killed"  # by somebody else: worth another try


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A tool call that is over. `status` is the exit status as a shell gives it; output is cut at the cap."""

    ending: Ending
    status: int
    stdout: bytes
    stderr: bytes
    seconds: float


class Sandbox:
    """Runs tools in isolation. One object serves many threads; `pids()` are the process groups alive now."""

    def __init__(self, isolation: Isolation) -> None:
        self.isolation = isolation
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()
        self._prefix: tuple[str, ...] = ()
        if isolation == "bubblewrap":
            self._prefix = self._working_prefix()
        log.log(logging.INFO if isolation == "bubblewrap" else logging.WARNING, "sandbox: %s", self.describe())

    def pids(self) -> list[int]:
        """The outermost process of every call in flight; killing one kills all it started."""
        with self._lock:
            return list(self._running)

    def describe(self) -> str:
        """The isolation in force, for a log line at start-up."""
        if self.isolation == "bubblewrap":
            sealed = set(NO_USER_NAMESPACES) <= set(self._prefix)
            return (
                "bubblewrap: no network, read-only /usr, private /tmp and process table, user nobody, "
                f"{'no' if sealed else 'with'} user namespaces inside, resource limits"
            )
        return "UNSAFE: resource limits only; responses run with the rights of this user"

    def _working_prefix(self) -> tuple[str, ...]:
        """The first form of the bwrap command that runs a trivial tool; SandboxError, one sentence, where none does."""
        said = ""
        for prefix in bubblewrap_prefixes():
            self._prefix = prefix
            finished = self.run(["true"], {"probe": b""}, Limits(wall_s=PROBE_S, cpu_s=5))
            if finished.status == 0:
                return prefix
            said = finished.stderr.decode(errors="replace").strip() or f"exit status {finished.status}"
        raise SandboxError(
            f"bubblewrap does not work here (it said: {said.splitlines()[-1]}), so responses cannot be isolated:"
            " allow user namespaces on this machine, or accept running them unprotected with reward.sandbox=unsafe"
        )

    def run(self, argv: Sequence[str], files: Mapping[str, bytes], limits: Limits) -> Finished:
        """Run `argv` in a fresh folder that holds `files` (plain names). Never raises for what the tool does."""
        if self.isolation == "bubblewrap":
            return self._run_isolated(argv, files, limits)
        with tempfile.TemporaryDirectory(prefix="temper-") as folder:
            for name, content in files.items():
                Path(folder, name).write_bytes(content)
            return self._run(argv, limits, folder=folder, descriptors=())

    def _run_isolated(self, argv: Sequence[str], files: Mapping[str, bytes], limits: Limits) -> Finished:
        with contextlib.ExitStack() as stack:
            handed_over: list[str] = []
            descriptors: list[int] = []
            for name, content in files.items():
                descriptor = os.memfd_create(name)
                stack.callback(os.close, descriptor)
                with os.fdopen(descriptor, "wb", closefd=False) as memory:
                    memory.write(content)
                os.lseek(descriptor, 0, os.SEEK_SET)
                descriptors.append(descriptor)
                handed_over += ["--ro-bind-data", str(descriptor), f"{WORK}/{name}"]
            return self._run([*self._prefix, *handed_over, *limit_prefix(limits), *argv], limits, None, descriptors)

    def _run(self, argv: Sequence[str], limits: Limits, folder: str | None, descriptors: Sequence[int]) -> Finished:
        if folder is not None:
            argv = [*limit_prefix(limits), *argv]
        started = time.monotonic()
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder or "/",
            env={
                "PATH": "/usr/local/bin:/usr/bin:/bin",
                "LC_ALL": "C",
                "HOME": folder or WORK,
                "TMPDIR": folder or WORK,
            },
            start_new_session=True,
            pass_fds=descriptors,
        )
        with self._lock:
            self._running[process.pid] = process
        try:
            stdout, stderr, cut = read_capped(process, limits, started + limits.wall_s)
        finally:
            with self._lock:
                del self._running[process.pid]
            kill_group(process)
        status = process.returncode if process.returncode >= 0 else SHELL_SIGNAL_BASE - process.returncode
        return Finished(
            ending=cut or ending_of(status),
            status=status,
            stdout=stdout,
            stderr=stderr,
            seconds=time.monotonic() - started,
        )

    def close(self) -> None:
        """Kill every call in flight; their threads return."""
        with self._lock:
            for process in self._running.values():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


@functools.cache
def bubblewrap_prefixes() -> tuple[tuple[str, ...], ...]:
    """Forms of the bwrap command up to the limits, best first. Raises SandboxError where bwrap is not installed.

    Started by root, the sandbox first becomes `nobody` on the host too: a user namespace alone maps `nobody` to root.
    Where the kernel forbids user namespaces to `nobody`, root builds the sandbox itself. bwrap before 0.8 cannot forbid
    them inside, where they give a process the kernel's interfaces for root.
    """
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise SandboxError(
            "bubblewrap (bwrap) is not installed, so responses cannot be isolated: `apt-get install bubblewrap`,"
            " or accept running them unprotected with reward.sandbox=unsafe"
        )
    links: list[str] = []
    for folder in (Path("/bin"), Path("/lib"), Path("/lib64"), Path("/sbin")):
        if folder.is_symlink():
            links += ["--symlink", os.readlink(folder), str(folder)]
        elif folder.is_dir():
            links += ["--ro-bind", str(folder), str(folder)]
    prefix = (
        bwrap,
        *("--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"),
        *("--uid", NOBODY, "--gid", NOBODY, "--hostname", "sandbox"),
        *("--ro-bind", "/usr", "/usr", *links),
        *("--proc", "/proc", "--dev", "/dev", "--size", str(TMP_BYTES), "--tmpfs", WORK, "--chdir", WORK),
        # bwrap makes both of tmpfs without a size, so what is written there would be memory of the host
        *("--remount-ro", "/dev", "--remount-ro", "/"),
    )
    sealed = (*prefix, *NO_USER_NAMESPACES)
    if os.geteuid() != 0:
        return (sealed, prefix)
    become_nobody = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--")
    return ((*become_nobody, *sealed), (*become_nobody, *prefix), prefix)


def limit_prefix(limits: Limits) -> list[str]:
    return [
        "prlimit",
        f"--cpu={limits.cpu_s}:{limits.cpu_s + CPU_GRACE_S}",
        f"--as={limits.memory_bytes}",
        f"--fsize={limits.file_bytes}",
        f"--nproc={limits.processes}",
        "--core=0",
        "--",
    ]


def read_capped(
    process: subprocess.Popen[bytes], limits: Limits, deadline: float
) -> tuple[bytes, bytes, Ending | None]:
    """Read both streams to their end, the deadline or the cap; (stdout, stderr, why we stopped early)."""
    assert process.stdout is not None
    assert process.stderr is not None
    streams = {process.stdout: bytearray(), process.stderr: bytearray()}
    cut: Ending | None = None
    with selectors.DefaultSelector() as selector:
        for stream in streams:
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map() and cut is None:
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if time.monotonic() >= deadline:  # whether or not there is more to read: a voice is no reason to wait
                cut = Ending.WALL
            for key, _ in ready:
                piece = os.read(key.fd, READ_BYTES)
                if piece:
                    streams[key.fileobj] += piece
                else:
                    selector.unregister(key.fileobj)
            if sum(map(len, streams.values())) > limits.output_bytes:
                cut = Ending.OUTPUT
    if cut is None:
        try:  # both streams closed: the tool is over, or sits there without a voice
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            cut = Ending.WALL
    stdout, stderr = (bytes(content[: limits.output_bytes]) for content in streams.values())
    return stdout, stderr, cut


def kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def ending_of(status: int) -> Ending:
    return {
        SHELL_SIGNAL_BASE + signal.SIGXCPU: Ending.CPU,
        SHELL_SIGNAL_BASE + signal.SIGXFSZ: Ending.FILE,
        SHELL_SIGNAL_BASE + signal.SIGKILL: Ending.KILLED,
    }.get(status, Ending.EXITED)


def check_program(name: str, package: str) -> None:
    """Raises ToolError, one sentence, where a program is not on the PATH."""
    if shutil.which(name) is None:
        raise ToolError(f"{name} is not installed, and the verifier runs it: `apt-get install {package}`")
