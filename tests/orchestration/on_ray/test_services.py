"""The driver's side of a rollout worker whose host is cut off: nothing is refused, nothing answers, no call returns.

Ray is replaced by an actor whose answers never come; tests/integration/test_multi_host.py pulls a real cable.
"""

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from learner.messages import Publication
from orchestration.cluster import placement
from orchestration.config import load_plan
from orchestration.errors import WorkerFailure
from orchestration.on_ray.actor import Service
from orchestration.on_ray.rollout import RayRollout
from orchestration.on_ray.services import RayServices
from rollout.config import RolloutConfig
from rollout.messages import EngineHealth

CONFIG = RolloutConfig(health_every_s=0.2, health_deadline_s=1.0, request_deadline_s=60.0)
PUBLICATION = Publication(version=1, checksum="", probe_ids=(1,), probe_entropy=0.0)


class CutOff(Service):
    """`answers`: method -> what it answers; all others never do."""

    def __init__(self, folder: Path, answers: dict | None = None) -> None:
        super().__init__("rollout-0", folder / "log")
        self._actor = SimpleNamespace(call=SimpleNamespace(remote=self._remote))
        self._answers = answers or {}

    def _remote(self, method: str, *_arguments) -> asyncio.Future:
        answer = asyncio.get_running_loop().create_future()
        if method in self._answers:
            answer.set_result(self._answers[method])
        return answer

    def kill(self) -> None:
        self.died = True


async def end_of(call) -> tuple[BaseException, float]:
    began = time.monotonic()
    with pytest.raises(WorkerFailure) as failure:
        await asyncio.wait_for(call, 30.0)
    return failure.value, time.monotonic() - began


@pytest.mark.parametrize(
    "call", [lambda worker: worker.update_weights(PUBLICATION, None), lambda worker: worker.metrics()]
)
def test_who_waits_for_a_host_that_is_cut_off_is_told_in_time(tmp_path, call):
    """Within health_every_s + health_deadline_s the worker is dead, also for a publication, which may take a minute."""
    service = CutOff(tmp_path)
    failure, seconds = asyncio.run(end_of(call(RayRollout(service, CONFIG))))
    assert failure.died
    assert service.died
    assert "rollout-0" in str(failure)
    assert seconds < 5.0  # 1.2 s, and what a loaded machine adds


def test_a_publication_that_takes_long_is_left_alone_while_the_engine_is_well(tmp_path):
    """Weights may take longer than any question after its health: as long as that is answered, they are waited for."""
    service = CutOff(tmp_path, {"health": EngineHealth(reason="", running=1, silent_s=0.0)})

    async def run() -> set:
        update = asyncio.create_task(RayRollout(service, CONFIG).update_weights(PUBLICATION, None))
        done, _ = await asyncio.wait({update}, timeout=1.5)
        update.cancel()
        await asyncio.gather(update, return_exceptions=True)
        return done

    assert not asyncio.run(run())
    assert not service.died


def test_no_cancellation_is_lost_with_an_answer_that_comes_at_the_same_time(tmp_path):
    """At whatever turn of the event loop it comes: otherwise who asks again and again would never end."""
    service = CutOff(tmp_path, {"health": 1})

    async def ask() -> None:
        for _ in range(100):
            await service.call("health", deadline_s=30.0)
            await asyncio.sleep(0)

    async def run() -> list[bool]:
        ended = []
        for turns in range(20):
            asking = asyncio.create_task(ask())
            for _ in range(turns):
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait({asking})
            ended.append(asking.cancelled())
        return ended

    assert all(asyncio.run(run()))


class Starts(RayServices):
    """Engines whose starts end as told: None starts, an exception is raised."""

    def __init__(self, tmp_path: Path, *ends: BaseException | None, working: bool) -> None:
        super().__init__(load_plan(["rollout.workers=2"]), tmp_path, tmp_path)
        self.ends = list(ends)
        self.names: list[str] = []
        if working:
            self._engines[Service("rollout-9", tmp_path / "log")] = None

    async def _start_engine(self, name: str, seed: int) -> str:
        self.names.append(name)
        if (end := self.ends.pop(0)) is not None:
            raise end
        return name


class Beside(RayServices):
    """Colocated with two ranks; `seats` are those that engines were started in, by their rank."""

    def __init__(self, tmp_path: Path) -> None:
        plan = load_plan(["cluster.colocated=true", "rollout.workers=2", "learner.ranks=2"])
        super().__init__(plan, tmp_path, tmp_path)
        self.learner._group = object()  # Ray's
        self.seats: list[int] = []
        self.dies = False

    async def start(self, kind: str, factory: Any, arguments: tuple, *, seat: Any, name: str, **_: Any) -> Service:
        self.seats.append(seat)
        await asyncio.sleep(0)
        service = Service(name, self._logs / "log")
        service.call = self.answer
        return service

    async def answer(self, method: str, deadline_s: float) -> None:
        if self.dies:
            raise GONE


def test_an_engine_takes_the_place_of_the_one_that_died_beside_a_rank(tmp_path, monkeypatch):
    """Two at once sit beside two ranks; whoever comes for a dead one, or for one that died starting, sits there."""
    monkeypatch.setattr(placement.Seat, "strategy", property(lambda seat: seat.bundle))
    services = Beside(tmp_path)

    async def run() -> None:
        await asyncio.gather(services.start_rollout_worker(), services.start_rollout_worker())
        dead = next(engine for engine, seat in services._engines.items() if seat.bundle == 0)
        dead.died = services.dies = True
        starting = asyncio.create_task(services.start_rollout_worker())
        while len(services.seats) < 4:
            await asyncio.sleep(0.01)
        services.dies = False
        await starting

    asyncio.run(run())
    assert services.seats[:2] == [0, 1]
    assert set(services.seats[2:]) == {0}


GONE = WorkerFailure("rollout-0 died", worker="rollout-0", died=True)
BROKEN = WorkerFailure("rollout-0 failed to start", worker="rollout-0", died=False)


def test_an_engine_whose_host_is_lost_while_it_starts_is_started_again(tmp_path):
    """Where another engine works, the run goes on; the second attempt is a restart, with a name of its own."""
    services = Starts(tmp_path, GONE, None, working=True)
    assert asyncio.run(services.start_rollout_worker()) == "rollout-1"
    assert services.names == ["rollout-0", "rollout-1"]


@pytest.mark.parametrize(("end", "working"), [(GONE, False), (BROKEN, True)])
def test_an_engine_that_cannot_start_stops_the_run(tmp_path, end, working):
    """A fault in its configuration, or a death where no engine ever worked: nothing is tried again."""
    services = Starts(tmp_path, end, working=working)
    with pytest.raises(WorkerFailure, match="rollout-0"):
        asyncio.run(services.start_rollout_worker())
    assert services.names == ["rollout-0"]
