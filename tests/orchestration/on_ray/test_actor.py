"""Answers of an actor one by one: at once, each within the deadline, and ended when nobody listens any more."""

import asyncio
import os
import signal
import time
from contextlib import aclosing, suppress
from pathlib import Path

import pytest

from orchestration.errors import WorkerFailure
from orchestration.on_ray.actor import Service


class Counter:
    """Lives in the actor; writes down how each of its streams ended."""

    def __init__(self, folder: Path):
        self.folder = folder

    async def count(self, name: str, pauses: tuple[float, ...]):
        end = "cancelled"
        try:
            for number, pause in enumerate(pauses):
                await asyncio.sleep(pause)
                yield number
            end = "finished"
        finally:
            (self.folder / name).write_text(end)

    async def fail(self):
        yield 0
        raise ValueError("so it is")


@pytest.fixture(scope="module")
def loop():
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("streams")


@pytest.fixture(scope="module")
def counter(ray_cluster, loop, folder) -> Service:
    service = loop.run_until_complete(
        Service.start("counter", folder / "log", Counter, (folder,), cpus=0, env={}, deadline_s=60.0)
    )
    yield service
    service.kill()


async def ended(file: Path) -> str:
    """How a stream ended, as its method wrote it down."""
    for _ in range(200):
        if file.exists() and (text := file.read_text()):
            return text
        await asyncio.sleep(0.05)
    return "never"


def test_answers_come_when_there_are_some(loop, counter, folder):
    """The first of two answers does not wait for the second, and the deadline is for each, not for all."""

    async def run():
        began, seen = time.perf_counter(), []
        async for numbers in counter.stream("count", "calm", (0.0, 1.5, 1.5), deadline_s=2.5):
            seen += [(number, time.perf_counter() - began) for number in numbers]
        return seen, await ended(folder / "calm")

    seen, end = loop.run_until_complete(run())
    assert [number for number, _ in seen] == [0, 1, 2]
    assert seen[1][1] - seen[0][1] > 1.0
    assert seen[2][1] > 2.5
    assert end == "finished"


def test_an_answer_that_does_not_come_is_waited_for_no_longer_than_the_deadline(loop, counter, folder):
    """The sentence says who waited for whom and how long, and the method is cancelled."""

    async def run():
        with pytest.raises(WorkerFailure, match="the driver waited 0 s for counter to count, and gave up") as failure:
            _ = [n async for n in counter.stream("count", "late", (0.0, 600.0), deadline_s=0.4)]
        return failure.value, await ended(folder / "late")

    failure, end = loop.run_until_complete(run())
    assert not failure.died
    assert end == "cancelled"


def test_whoever_leaves_cancels_the_method(loop, counter, folder):
    """After the first answer nobody listens: the method ends although it has more to say."""

    async def run():
        async with aclosing(counter.stream("count", "left", (0.0, 600.0), deadline_s=60.0)) as numbers:
            assert await anext(numbers) == [0]
        return await ended(folder / "left")

    assert loop.run_until_complete(run()) == "cancelled"


def test_an_exception_comes_behind_the_answers_before_it(loop, counter):
    """What was yielded is there; then WorkerFailure with the method's own error as its cause."""

    async def run():
        seen = []

        async def look():
            async for numbers in counter.stream("fail", deadline_s=60.0):
                seen.extend(numbers)

        with pytest.raises(WorkerFailure, match="counter failed to fail: ValueError: so it is") as failure:
            await look()
        assert isinstance(failure.value.__cause__, ValueError)
        return seen

    assert loop.run_until_complete(run()) == [0]


def test_streams_beside_each_other_get_their_own_answers(loop, counter):
    """40 streams of 25 answers each, some faster than others: every answer once, in order, and nothing stays behind."""

    async def numbers_of(name: int):
        pauses = (0.0, *[0.002 * (name % 4)] * 24)
        return [n async for numbers in counter.stream("count", str(name), pauses, deadline_s=60.0) for n in numbers]

    async def run():
        found = await asyncio.gather(*(numbers_of(name) for name in range(40)))
        await asyncio.sleep(1.0)
        return found

    assert loop.run_until_complete(run()) == [list(range(25))] * 40
    assert not counter._arrivals
    assert counter._taking is None


def test_a_dead_actor_ends_its_streams(loop, ray_cluster, folder):
    """kill -9 of the actor while two streams wait: both end with WorkerFailure(died), not at their deadline."""

    async def run():
        doomed = await Service.start("doomed", folder / "log2", Counter, (folder,), cpus=0, env={}, deadline_s=60.0)

        async def listen(name: str):
            async for _ in doomed.stream("count", name, (0.0, 600.0), deadline_s=300.0):
                with suppress(ProcessLookupError):  # the other one was first
                    os.kill(doomed.pid, signal.SIGKILL)

        return await asyncio.wait_for(asyncio.gather(listen("a"), listen("b"), return_exceptions=True), 60.0)

    failures = loop.run_until_complete(run())
    assert [(type(failure), failure.died) for failure in failures] == [(WorkerFailure, True)] * 2
