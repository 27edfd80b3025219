"""Worker processes as their parent sees them: started when needed, asked one thing at a time, killed at the deadline.

ask(payload) --> an idle child (or a fresh one) --> answer
                 deadline over: SIGKILL, status timeout
                 died (kill -9, memory): a fresh child is asked again
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from typing import Any

from reward.child import READY
from reward.config import ChildConfig
from reward.errors import ToolError
from reward.messages import Status

ATTEMPTS = 3
READ_BYTES = 1 << 16


class ChildDied(Exception):
    """The process ended without an answer."""


class ChildLate(Exception):
    """The deadline passed without an answer; the process is dead now."""


class Child:
    """One process. Used by one thread at a time."""

    def __init__(self, target: str, config: ChildConfig) -> None:
        self.asked = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "reward.child", target, str(config.memory_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._buffer = b""
        try:
            ready = self._answer(time.monotonic() + config.start_s)
        except (ChildDied, ChildLate) as error:
            self.close()
            raise ToolError(
                f"a verifier process for {target} did not start within {config.start_s:g} s: check that"
                f" `{sys.executable} -c 'import {target.partition(':')[0]}'` works"
            ) from error
        if ready != READY:
            raise ToolError(f"a verifier process for {target} said {ready} instead of being ready")

    def ask(self, payload: dict[str, Any], deadline_s: float) -> dict[str, Any]:
        """Raises ChildDied or ChildLate."""
        self.asked += 1
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(payload).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise ChildDied from error
        return self._answer(time.monotonic() + deadline_s)

    def _answer(self, deadline: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                self.close()
                raise ChildLate
            piece = os.read(descriptor, READ_BYTES)
            if not piece:
                raise ChildDied
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


class Children:
    """As many processes as threads ask at the same time. Safe to share between threads."""

    def __init__(self, target: str, config: ChildConfig, deadline_s: float) -> None:
        self._target = target
        self._config = config
        self._deadline_s = deadline_s
        self._idle: list[Child] = []
        self._busy: set[Child] = set()
        self._lock = threading.Lock()
        self._closed = False

    def pids(self) -> list[int]:
        with self._lock:
            return [child.pid for child in (*self._idle, *self._busy)]

    def ask(self, payload: dict[str, Any]) -> dict[str, Any]:
        """The child's answer, or one with status `timeout` or `resource`. Raises ToolError where none can start."""
        for _ in range(ATTEMPTS):
            child = self._take()
            try:
                answer = child.ask(payload, self._deadline_s)
            except ChildLate:
                self._drop(child)
                return {"status": Status.TIMEOUT.value, "detail": f"not judged within {self._deadline_s:g} s"}
            except ChildDied:
                self._drop(child)
                if self._closed:
                    break
                continue
            if answer.get("status") == Status.RESOURCE.value or child.asked >= self._config.verdicts:
                self._drop(child)
            else:
                self._give(child)
            return answer
        return {"status": Status.RESOURCE.value, "detail": f"{ATTEMPTS} worker processes died on it"}

    def _take(self) -> Child:
        with self._lock:
            child = self._idle.pop() if self._idle else None
            if child is not None:
                self._busy.add(child)
        if child is None:
            child = Child(self._target, self._config)
            with self._lock:
                self._busy.add(child)
        return child

    def _give(self, child: Child) -> None:
        with self._lock:
            self._busy.discard(child)
            if not self._closed:
                self._idle.append(child)
                return
        child.close()

    def _drop(self, child: Child) -> None:
        with self._lock:
            self._busy.discard(child)
        child.close()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            children = [*self._idle, *self._busy]
            self._idle.clear()
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # a busy child's thread reaps it
        for child in children:
            if child not in self._busy:
                child.close()
