"""A template process: imports a verifier's libraries once and forks workers, each of which judges on its main thread.

    python -m reward.child MODULE:FUNCTION MEMORY_BYTES EXAMPLE      (standard input: the control socket)

    control    in: one message with a worker's end of a channel; out: READY, once, after EXAMPLE (JSON) was judged
    channel    in: lines of (token, CPU seconds, payload), payload a JSON object; out: lines of (token, answer)

A worker is a fork: it starts in milliseconds, and whoever has its pid can kill it at any moment. What a worker started
dies with it; a worker dies with the template, and the template with the service. Nothing of the run (Ray, torch, vLLM)
is imported here.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import sys
from collections.abc import Callable

READY = b"ready"
BORN = b"\n"  # the first byte of a worker; the kernel adds its pid
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 1, 4, 36

OPEN_FILES = 64  # of one worker
PROCESSES = 0  # that a worker may start; the kernel does not hold root to it
WAKE_BYTES = 4096

Judge = Callable[[dict], dict]


def main(target: str, memory_bytes: int, example: str) -> None:
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    control = socket.socket(fileno=os.dup(0))
    module, _, function = target.partition(":")
    judge: Judge = getattr(importlib.import_module(module), function)
    payload = json.loads(example)
    if payload is not None:
        judge(payload)  # what a library builds on first use is built before the forks
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        raise RuntimeError(f"{target} starts {threads - 1} threads, and a process with threads is not safe to fork")
    prctl(PR_SET_DUMPABLE, 0)  # workers have one user, and cannot look into each other or into this process
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.chdir("/")
    os.umask(0o077)
    gc.collect()
    gc.freeze()  # a collection in a worker does not touch, and so copy, what all share
    Template(control, judge, memory_bytes).run()


class Template:
    """Forks a worker for every channel that arrives, and buries them."""

    def __init__(self, control: socket.socket, judge: Judge, memory_bytes: int) -> None:
        self._control = control
        self._judge = judge
        self._memory_bytes = memory_bytes
        self._workers: set[int] = set()

    def run(self) -> None:
        """Returns when the service closes the control socket or dies, and nothing is left of any worker."""
        woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # all that matters is the byte in the pipe
        signal.signal(signal.SIGTERM, lambda *_: self._control.shutdown(socket.SHUT_RDWR))
        poll = select.poll()
        for descriptor in (self._control.fileno(), woken):
            poll.register(descriptor, select.POLLIN)
        self._control.send(READY)
        while True:
            ready = [descriptor for descriptor, _ in poll.poll()]
            if woken in ready:
                os.read(woken, WAKE_BYTES)
                self._bury()
            if self._control.fileno() in ready:
                message, channels, _, _ = socket.recv_fds(self._control, 1, 1)
                if not message:
                    return self._end()
                for channel in channels:
                    self._fork(channel)

    def _end(self) -> None:
        while left := children() | self._workers:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            for pid in left:
                os.waitpid(pid, 0)
            self._workers.clear()

    def _fork(self, channel: int) -> None:
        try:
            pid = os.fork()
        except OSError:  # the machine is out of processes or memory: the service sees its channel end
            os.close(channel)
            return
        if pid == 0:
            try:
                work(channel, self._judge, self._memory_bytes)
            finally:
                os._exit(1)
        os.close(channel)
        self._workers.add(pid)

    def _bury(self) -> None:
        """Take leave of dead workers, and kill what they started."""
        while (over := dead_child()) is not None:
            if over in self._workers:
                with contextlib.suppress(ProcessLookupError):  # it died before it led one
                    os.killpg(over, signal.SIGKILL)  # while its number cannot be another's
                self._workers.discard(over)
            os.waitpid(over, 0)
            for orphan in children() - self._workers:  # left their group, and fell to us when their parent died
                os.kill(orphan, signal.SIGKILL)


def dead_child() -> int | None:
    try:
        over = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return None if over is None else over.si_pid


def children() -> set[int]:
    try:
        with open("/proc/thread-self/children") as listed:
            return set(map(int, listed.read().split()))
    except FileNotFoundError:  # a kernel built without CONFIG_PROC_CHILDREN
        return set()


def work(channel: int, judge: Judge, memory_bytes: int) -> None:
    """The life of a worker: until its channel ends, or it is killed."""
    template = os.getppid()
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != template:
        return  # it died before it could have told us
    os.setsid()
    signal.set_wakeup_fd(-1)
    for handled in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(handled, signal.SIG_DFL)
    os.dup2(channel, 3)
    os.closerange(4, os.sysconf("SC_OPEN_MAX"))
    for limit, value in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_NPROC, PROCESSES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))
    with socket.socket(fileno=3) as service, service.makefile("rb") as lines:
        service.sendall(BORN)
        for line in lines:
            token, cpu_s, payload = line.split(b" ", 2)
            allow_cpu(int(cpu_s))
            service.sendall(token + b" " + answer_to(payload, judge) + b"\n")


def answer_to(payload: bytes, judge: Judge) -> bytes:
    try:
        return json.dumps(judge(json.loads(payload))).encode()
    except (MemoryError, RecursionError) as error:
        answer = {"status": "resource", "detail": f"{type(error).__name__} while judging"}
    except (Exception, SystemExit) as error:  # a library's fault on this input: a status of its own, counted apart
        answer = {"status": "error", "detail": f"{type(error).__name__} while judging: {str(error)[:200]}"}
    return json.dumps(answer).encode()


def allow_cpu(seconds: int) -> None:
    """A worker that nobody watches any more (its service is stopped) ends by itself."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + seconds, hard))


def prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
