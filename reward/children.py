"""Workers as the service sees them: forked when needed, asked one thing at a time, killed at the deadline.

ask(payload) --> an idle worker, or a fork of the template --> answer
                 deadline over: SIGKILL, status timeout
                 died (kill -9, memory, a crash): a fresh one is asked again
                 template died: so did its workers; a new template, then as above
"""

import contextlib
import json
import math
import os
import secrets
import select
import signal
import socket
import struct
import threading
import time
from typing import Any

from reward.config import RewardConfig
from reward.deadline import Deadline
from reward.errors import ToolError
from reward.messages import Status
from reward.template import Template, TemplateGone

ATTEMPTS = 5  # workers that may die on one payload
FORK_S = 2.0  # a template that has not forked by then is replaced ...
SETTLE_S = 0.1  # for a dying template to be seen dead
PATIENCE_S = 0.5  # ... also when the deadline comes first, unless it left less than this
CPU_GRACE_S = 2  # past the deadline: the service kills first, if it can
READ_BYTES = 1 << 16
ANSWER_BYTES = 4 << 20  # a longer answer is none
CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


class WorkerDied(Exception):
    """The process ended, or said something that is no answer; nobody must ask it again."""


class WorkerLate(Exception):
    """The deadline passed without an answer."""


class Worker:
    """One process. Used by one thread at a time, except for `kill`."""

    def __init__(self, template: Template, deadline: Deadline) -> None:
        """Raises TemplateGone, WorkerDied, WorkerLate."""
        self.asked = 0
        self._buffer = b""
        self._channel = template.fork()
        self._channel.setblocking(False)
        self._pidfd = -1
        self._poll = select.poll()
        try:
            self._wait(select.POLLIN, deadline)
            self.pid = self._born()
            self._pidfd = os.pidfd_open(self.pid)
        except (WorkerDied, WorkerLate):
            self.close()
            raise
        except ProcessLookupError as error:
            self.close()
            raise WorkerDied from error
        self._poll.register(self._pidfd, select.POLLIN)

    def _born(self) -> int:
        """The kernel says who sent the first byte, and translates the pid out of the sandbox's process table."""
        try:
            byte, extra, _, _ = self._channel.recvmsg(1, socket.CMSG_SPACE(CREDENTIALS.size))
        except ConnectionError as error:
            raise WorkerDied from error
        if not byte:
            raise WorkerDied
        self._channel.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)
        return CREDENTIALS.unpack(extra[0][2])[0]

    def alive(self) -> bool:
        """Of an idle one."""
        self._poll.modify(self._channel, 0)
        return not self._poll.poll(0)

    def ask(self, payload: bytes, deadline: Deadline) -> dict[str, Any]:
        """Raises WorkerDied or WorkerLate."""
        self.asked += 1
        token = secrets.token_hex(8).encode()  # an answer without it was meant for no question, or for another
        cpu_s = math.ceil(deadline.left_s()) + CPU_GRACE_S
        try:
            self._send(b"%s %d %s\n" % (token, cpu_s, payload), deadline)
            line = self._line(deadline)
        except ConnectionError as error:
            raise WorkerDied from error
        given, _, text = line.partition(b" ")
        if given != token or self._buffer:
            raise WorkerDied
        return read_answer(text)

    def _send(self, message: bytes, deadline: Deadline) -> None:
        unsent = memoryview(message)
        while True:
            with contextlib.suppress(BlockingIOError):
                unsent = unsent[self._channel.send(unsent) :]
            if not unsent:
                return
            self._wait(select.POLLOUT, deadline)

    def _line(self, deadline: Deadline) -> bytes:
        while b"\n" not in self._buffer:
            if len(self._buffer) > ANSWER_BYTES:
                raise WorkerDied
            self._wait(select.POLLIN, deadline)
            piece = self._channel.recv(READ_BYTES)
            if not piece:
                raise WorkerDied
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _wait(self, event: int, deadline: Deadline) -> None:
        """Until the channel is ready for it."""
        left_s = deadline.left_s()
        if left_s == 0.0:
            raise WorkerLate
        self._poll.register(self._channel, event)
        ready = {descriptor for descriptor, _ in self._poll.poll(left_s * 1000)}
        if not ready:
            raise WorkerLate
        if self._channel.fileno() not in ready:
            raise WorkerDied  # its process has ended, though something it started holds its channel open

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def close(self) -> None:
        """Kill it and let go of it; its template buries it."""
        self._channel.close()
        if self._pidfd >= 0:
            self.kill()
            os.close(self._pidfd)
            self._pidfd = -1


def read_answer(text: bytes) -> dict[str, Any]:
    """Raises WorkerDied for what is no answer: a worker that says such things is not to be trusted with another."""
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WorkerDied from error
    if not isinstance(answer, dict) or answer.get("status", Status.SCORED.value) not in set(Status):
        raise WorkerDied
    return answer


class Children:
    """As many workers as threads ask at the same time, and their template. Safe to share between threads.

    `target` is MODULE:FUNCTION, a function from payload to answer, both JSON objects; an answer with a `status` is one
    that could not be given. `example` is a payload judged once at the start: it builds what a library builds lazily.
    """

    def __init__(self, target: str, config: RewardConfig, example: dict[str, Any] | None = None) -> None:
        """Starts the template and does not wait for it. Raises SandboxError or ToolError where it cannot."""
        self._target = target
        self._config = config
        self._example = example
        self._idle: list[Worker] = []
        self._busy: set[Worker] = set()
        self._lock = threading.Lock()
        self._closed = False
        self._template = self._new_template()

    def pids(self) -> list[int]:
        """The workers alive now; killing one costs a retry and nothing else."""
        with self._lock:
            return [worker.pid for worker in (*filter(Worker.alive, self._idle), *self._busy)]

    @property
    def template_pid(self) -> int | None:
        """The outermost process of the template; killing it costs a new template and nothing else."""
        return self._template.pid

    def warm(self) -> None:
        """Wait until a worker can be forked, so that no response pays for it. Raises ToolError where none can."""
        for _ in range(ATTEMPTS):
            if self._closed:
                return
            with contextlib.suppress(TemplateGone):
                self._living_template().wait_ready(None)
                return
        raise ToolError(f"the process that judges with {self._target} was killed {ATTEMPTS} times while it started")

    def ask(self, payload: dict[str, Any], deadline: Deadline) -> dict[str, Any]:
        """The worker's answer, or one with status `timeout`, `resource` or `error` and a `detail`.

        Raises ToolError where the template has died and cannot start again.
        """
        try:
            message = json.dumps(payload).encode()
        except (TypeError, ValueError, RecursionError) as error:
            return {"status": Status.ERROR.value, "detail": f"what is to be judged is no JSON: {str(error)[:200]}"}
        deaths = 0
        while deaths < ATTEMPTS and not self._closed:
            if deadline.passed:
                return late(deaths)
            worker = self._take(deadline)
            if worker is None:
                continue
            try:
                answer = worker.ask(message, deadline)
            except WorkerLate:
                self._drop(worker)
                return late(deaths + 1)
            except WorkerDied:
                self._drop(worker)
                deaths += 1
                continue
            if answer.get("status") == Status.RESOURCE.value or worker.asked >= self._config.child.verdicts:
                self._drop(worker)
            else:
                self._give(worker)
            return answer
        if self._closed:
            return {"status": Status.ERROR.value, "detail": "the verifier was closed"}
        return {"status": Status.RESOURCE.value, "detail": f"{deaths} worker processes died on it"}

    def close(self) -> None:
        """End every process; who waits for an answer is told so."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            for worker in self._busy:
                worker.kill()  # its thread lets go of it
            template = self._template
        for worker in idle:
            worker.close()
        template.close()

    def _take(self, deadline: Deadline) -> Worker | None:
        """None where a fork or a template failed, which says nothing about the payload."""
        with self._lock:
            while self._idle:
                worker = self._idle.pop()
                if worker.alive():
                    self._busy.add(worker)
                    return worker
                worker.close()
        asked_s = time.monotonic()
        try:
            template = self._living_template()
            if not template.wait_ready(deadline):
                return None
            asked_s = time.monotonic()
            worker = Worker(template, Deadline(min(deadline.at_s, asked_s + FORK_S)))
        except TemplateGone:
            return None
        except WorkerDied:
            template.ended(within_s=SETTLE_S)  # the likely reason; if it is not, a template still forks
            return None
        except WorkerLate:
            if time.monotonic() - asked_s >= PATIENCE_S:
                template.kill()
            return None
        with self._lock:
            self._busy.add(worker)
        return worker

    def _give(self, worker: Worker) -> None:
        with self._lock:
            self._busy.discard(worker)
            if not self._closed:
                self._idle.append(worker)
                return
        worker.close()

    def _drop(self, worker: Worker) -> None:
        with self._lock:
            self._busy.discard(worker)
        worker.close()

    def _living_template(self) -> Template:
        with self._lock:
            if self._template.gone and not self._closed:
                self._template = self._new_template()
            return self._template

    def _new_template(self) -> Template:
        return Template(self._target, self._example, self._config.child, self._config.sandbox)


def late(asked: int) -> dict[str, Any]:
    if asked:
        return {"status": Status.TIMEOUT.value, "detail": "not judged before the deadline"}
    return {"status": Status.ERROR.value, "detail": "no worker process could be started before the deadline"}
