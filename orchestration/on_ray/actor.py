"""One way to put a service of another package into a Ray actor: its own process, its own log file, named calls.

    driver --Service.call("train", batch)--> Ray --> ActorHost --> LearnerWorker.train(batch), in the actor's process

The services stay plain classes. A coroutine method runs on the actor's event loop, many at a time; a plain method runs
on one thread of its own, one at a time, the same thread that built the service (CUDA contexts and DeepSpeed want that).
"""

import asyncio
import contextlib
import inspect
import itertools
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from orchestration import process
from orchestration.errors import WorkerFailure
from orchestration.outbox import Arrivals, MethodError, Outbox

TAIL_LINES = 15  # of a failed actor's log, shown on the console


class ActorHost:
    """Lives in the actor's process and holds one service."""

    def __init__(self, log_file: str) -> None:
        _log_to(Path(log_file))
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="service")
        self._outbox = Outbox()
        self._service: Any = None

    async def build(self, factory: Callable[..., Any], arguments: tuple) -> tuple[str, int]:
        """Construct the service; returns (host name, process id)."""

        def construct() -> None:
            self._service = factory(*arguments)

        await asyncio.get_running_loop().run_in_executor(self._thread, construct)
        return socket.gethostname(), os.getpid()

    async def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the service and return its answer."""
        bound = getattr(self._service, method)
        try:
            if inspect.iscoroutinefunction(bound):
                return await bound(*arguments)
            return await asyncio.get_running_loop().run_in_executor(self._thread, bound, *arguments)
        except BaseException:
            logging.getLogger(__name__).exception("%s failed", method)
            raise

    async def stream(self, number: int, method: str, *arguments: Any) -> tuple[int, list[Any], Exception | None]:
        """`call` for a method that yields its answers, into the outbox; see `Outbox.run`."""
        count, rest, error = await self._outbox.run(number, getattr(self._service, method)(*arguments))
        if error is not None:
            logging.getLogger(__name__).error("%s failed", method, exc_info=error)
        return count, rest, error

    async def take(self) -> list[tuple[int, Any]]:
        """What the streams have answered; see `Outbox.take`."""
        return await self._outbox.take()

    async def call_split(self, method: str, *arguments: Any) -> tuple[Any, Any]:
        """`call` for a method that answers (small record, large payload): Ray returns two references."""
        first, second = await self.call(method, *arguments)
        return first, second


def _log_to(file: Path) -> None:
    """Send this process's output, that of its C libraries and children included, to `file`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, force=True, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )


class Service:
    """The driver's handle on one actor. Create with `await Service.start(...)`."""

    def __init__(self, name: str, log_file: Path) -> None:
        self.name = name
        self.log_file = log_file
        self.host = ""
        self.pid = 0
        self.died = False  # as far as anybody has noticed
        self._numbers = itertools.count()  # of streams
        self._arrivals: dict[int, Arrivals] = {}
        self._taking: asyncio.Task | None = None
        self._actor: Any = None

    @classmethod
    async def start(
        cls,
        name: str,
        log_file: Path,
        factory: Callable[..., Any],
        arguments: tuple,
        *,
        cpus: float,
        gpus: float = 0.0,
        seat: Any = None,
        env: Mapping[str, str],
        deadline_s: float,
    ) -> "Service":
        """Start the actor, in its `seat` if it has one (orchestration/cluster/placement.py), and build its service.

        Raises WorkerFailure, with the log's last lines, when that fails.
        """
        service = cls(name, log_file)
        host = ray.remote(ActorHost).options(
            name=name,
            num_cpus=cpus,
            num_gpus=gpus,
            scheduling_strategy=seat or "DEFAULT",
            max_restarts=0,
            runtime_env={"env_vars": {**process.environment(), **env}},
        )
        service._actor = host.remote(str(log_file.resolve()))
        build = service._actor.build.remote(factory, arguments)
        service.host, service.pid = await service._answer(build, "start", deadline_s)
        return service

    async def call(self, method: str, *arguments: Any, deadline_s: float) -> Any:
        """Raises WorkerFailure when the process died, the service raised, or the deadline passed."""
        return await self._answer(self._actor.call.remote(method, *arguments), method, deadline_s)

    async def stream(self, method: str, *arguments: Any, deadline_s: float) -> AsyncIterator[list[Any]]:
        """What the method yields, in lists, as it comes; the deadline is for each. Whoever stops early cancels it."""
        number = next(self._numbers)
        arrivals = self._arrivals[number] = Arrivals()
        if self._taking is None:
            self._taking = asyncio.create_task(self._take())
        running = self._actor.stream.remote(number, method, *arguments)
        reply = asyncio.ensure_future(_resolve(running))
        reply.add_done_callback(arrivals.reply)
        try:
            while answers := await self._answer(arrivals.next(), method, deadline_s):
                yield answers
        finally:
            del self._arrivals[number]
            ray.cancel(running)  # nothing to do where it has ended
            reply.cancel()

    async def _take(self) -> None:
        """Hand the answers of all streams to those who wait for them, for as long as there are streams."""
        try:
            while self._arrivals:
                for number, answer in await self._actor.take.remote():
                    if number in self._arrivals:  # else nobody waits any more
                        self._arrivals[number].add([answer])
        except RayError as error:
            for arrivals in self._arrivals.values():
                arrivals.fail(error)
        finally:
            self._taking = None

    async def call_split(self, method: str, *arguments: Any, deadline_s: float) -> tuple[Any, Any]:
        """(record, reference to the payload): the payload stays in the object store and can be passed on."""
        record, payload = self._actor.call_split.options(num_returns=2).remote(method, *arguments)
        return await self._answer(record, method, deadline_s), payload

    async def _answer(self, answer: Awaitable[Any], what: str, deadline_s: float) -> Any:
        try:
            async with asyncio.timeout(deadline_s):  # wait_for may lose a cancellation: bpo-42130, until Python 3.12
                return await answer
        except TimeoutError as late:
            raise WorkerFailure(
                f"the driver waited {deadline_s:.0f} s for {self.name} to {what}, and gave up;"
                f" its stacks and last words are in {self.log_file}{self.tail()}",
                worker=self.name,
                died=False,
            ) from late
        except (RayTaskError, MethodError) as error:
            cause = error.cause
            raise WorkerFailure(
                f"{self.name} failed to {what}: {type(cause).__name__}: {cause}", worker=self.name, died=False
            ) from cause
        except RayActorError as gone:
            self.died = True
            raise WorkerFailure(f"{self.name} died{self.tail()}", worker=self.name, died=True) from gone
        except RayError as error:
            self.died = True
            raise WorkerFailure(f"{self.name}: {error}{self.tail()}", worker=self.name, died=True) from error

    def kill(self) -> None:
        self.died = True
        if self._actor is not None:
            ray.kill(self._actor)

    def kill_process(self) -> None:
        """SIGKILL, as the kernel does when memory runs out; on another host Ray ends the process. Nobody is told."""
        if self.host != socket.gethostname():
            ray.kill(self._actor)
            return
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # dead, and nobody has noticed yet
            if Path(f"/proc/{self.pid}/cmdline").read_bytes().startswith(b"ray::"):  # not somebody else's by now
                os.kill(self.pid, signal.SIGKILL)

    def dump_stacks(self) -> None:
        """Ask the process, if it is on this host, to write all its stacks to its log (see `process.prepare`)."""
        if self.host == socket.gethostname():
            with contextlib.suppress(ProcessLookupError):  # dead: its log has what there is
                os.kill(self.pid, signal.SIGUSR1)

    def tail(self) -> str:
        """The last lines of the actor's log, ready to be appended to a message."""
        try:
            lines = self.log_file.read_text(errors="replace").splitlines()[-TAIL_LINES:]
        except FileNotFoundError:
            return " (it left no log)"
        return "; the last lines of its log:\n  " + "\n  ".join(lines)


async def _resolve(answer: Awaitable[Any]) -> Any:
    return await answer
