"""A worker of a verifier as a process of its own: requests go over a pipe, verdicts come back.

    lane thread --Replica.verify--> pipe --> [python -m reward.replica: the verifier itself] --> pipe --> verdicts

For verifiers that do much of their work in Python, which threads of one process would do in turn. The process is
trusted: what runs on a response below it is isolated as ever. It ends when its pipe does.

A process that dies is started again and gets the batch again, then its halves, so that one response on which every
process dies gets `resource` and its neighbours get their verdicts.
"""

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection, Pipe

import psutil

from reward.config import RewardConfig
from reward.errors import RewardError
from reward.messages import Status, Verdict, VerifyRequest
from reward.verifier import Verifier, load_class

log = logging.getLogger(__name__)

START_S = 60.0
SLACK_S = 30.0  # on top of what the responses of a batch may take one after the other
ATTEMPTS = 3  # processes that one response may cost


class ReplicaDied(Exception):
    """The process has ended, or has not answered for longer than its batch may take."""


class Replica:
    """See `reward.verifier.Verifier`; one batch at a time. Starts when it is first asked."""

    def __init__(self, name: str, target: str, config: RewardConfig) -> None:
        """`target`: MODULE:CLASS of the verifier, as the registry names it."""
        self.name = name
        self._target = target
        self._config = config
        self._lock = threading.Lock()  # of the three below, against `close`
        self._closed = False
        self._process: subprocess.Popen | None = None
        self._pipe: Connection | None = None

    def verify(self, requests: Sequence[VerifyRequest]) -> list[Verdict]:
        """Raises RewardError where the verifier in the process does, or no process starts."""
        deaths = 0
        while True:
            try:
                return self._ask(requests)
            except ReplicaDied:
                self._end()
                deaths += 1
                log.warning("a process of the verifier %s died on %d responses", self.name, len(requests))
            if len(requests) > 1:
                half = len(requests) // 2
                return self.verify(requests[:half]) + self.verify(requests[half:])
            if deaths == ATTEMPTS:
                detail = f"{deaths} verifier processes died on it"
                return [Verdict(id=requests[0].id, reward=0.0, status=Status.RESOURCE, detail=detail)]

    def pids(self) -> list[int]:
        """The process, and the tools it runs now."""
        process = self._process
        if process is None or process.poll() is not None:
            return []
        try:
            return [process.pid, *(child.pid for child in psutil.Process(process.pid).children())]
        except psutil.NoSuchProcess:
            return []

    def close(self) -> None:
        with self._lock:
            self._closed = True
        self._end()

    def _ask(self, requests: Sequence[VerifyRequest]) -> list[Verdict]:
        pipe = self._started()
        try:
            pipe.send(list(requests))
            if not pipe.poll(SLACK_S + self._config.deadline_s * len(requests)):
                raise ReplicaDied
            answer = pipe.recv()
        except (EOFError, OSError) as gone:
            raise ReplicaDied from gone
        if isinstance(answer, RewardError):
            raise answer
        return answer

    def _started(self) -> Connection:
        """The pipe to a process that is ready. Raises RewardError where it cannot start, ReplicaDied where it died."""
        with self._lock:
            if self._closed:
                raise RewardError(f"the verifier {self.name} was closed")
            if self._pipe is not None:
                return self._pipe
            ours, theirs = Pipe()
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "reward.replica", str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"},
                    start_new_session=True,  # Ctrl-C is the service's to handle
                )
            self._pipe = ours
        try:
            ours.send((self.name, self._target, self._config))
            if not ours.poll(START_S):
                raise RewardError(f"the process of the verifier {self.name} is not ready after {START_S:g} s")
            failed = ours.recv()
        except (EOFError, OSError) as gone:
            raise ReplicaDied from gone
        if failed is not None:
            self._end()
            raise failed
        return ours

    def _end(self) -> None:
        with self._lock:
            process, pipe = self._process, self._pipe
            self._process = self._pipe = None
        if process is not None:
            process.kill()
            process.wait()
        if pipe is not None:
            pipe.close()


def serve(pipe: Connection) -> None:
    """The life of the process: which verifier and its settings come first, then batches, until the pipe ends."""
    name, target, config = pipe.recv()
    try:
        verifier: Verifier = load_class(name, target)(config)
    except RewardError as failed:
        pipe.send(failed)
        return
    pipe.send(None)
    while True:
        try:
            requests = pipe.recv()
        except EOFError:
            return verifier.close()
        try:
            answer = verifier.verify(requests)
        except RewardError as error:
            answer = error
        except Exception as error:  # leaves as what the lane would make of it, with its place in this process's log
            log.exception("the verifier %s failed", name)
            answer = RewardError(
                f"the verifier {name} failed on a batch of {len(requests)} responses, which is a fault of its own:"
                f" {type(error).__name__}: {error}"
            )
        pipe.send(answer)


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
