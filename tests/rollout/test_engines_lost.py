"""Engines that die or freeze in the middle of their work: everybody who waits is told soon, and nothing is left."""

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from orchestration.errors import WorkerFailure
from orchestration.on_ray.actor import Service
from orchestration.on_ray.rollout import RayRollout
from orchestration.services import whole_group
from rollout.config import RolloutConfig, SpeculativeConfig
from rollout.draw.temperature import Fixed
from rollout.errors import EngineLostError
from rollout.messages import GroupRequest
from tests.models import random_policy
from tests.rollout.engines import PROMPT, Running, started

pytestmark = pytest.mark.slow

LOSS_DEADLINE_S = 5.0  # from the death of the engine's process to the end of every call that waits
CONFIG = RolloutConfig(
    engine="async_llm",
    max_model_len=512,
    max_num_seqs=4,
    kv_cache_gib=0.05,
    health_every_s=0.5,
    health_deadline_s=5.0,
    stuck_after_s=2.0,
)


@pytest.fixture
def running(ray_cluster, tmp_path) -> Running:
    policy = random_policy(tmp_path)
    with started(tmp_path, policy, CONFIG, SpeculativeConfig(), f"lost-{tmp_path.name}") as worker:
        yield worker


def ask(name: str) -> GroupRequest:
    return GroupRequest(group_id=name, prompt_ids=PROMPT, n=64, max_tokens=500, temperature=Fixed())


def engine_process(worker: Service) -> int:
    """The process id of vLLM's engine core, a child of the worker's process."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        _, name, fields = status.read_text().replace("(", ")").split(")", 2)
        if int(fields.split()[1]) == worker.pid and "EngineCor" in name:
            return int(status.parent.name)
    raise AssertionError("the worker has no engine process")


def alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


async def gone(*pids: int) -> bool:
    for _ in range(100):
        if not any(alive(pid) for pid in pids):
            return True
        await asyncio.sleep(0.1)
    return False


async def ends(calls: list) -> tuple[list, float]:
    """What each call ended with, and after how many seconds the last one did."""
    began = time.perf_counter()
    results = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 60)
    return results, time.perf_counter() - began


def test_kill_9_of_the_engine_process_ends_every_call(running):
    """Three groups in flight, 192 responses running or waiting: each call ends with one EngineLostError within 5 s."""

    async def run():
        calls = [asyncio.create_task(running.group(ask(f"g{i}"))) for i in range(3)]
        await asyncio.sleep(0.5)
        assert not any(call.done() for call in calls)
        os.kill(engine_process(running.worker), signal.SIGKILL)
        results, seconds = await ends(calls)
        health = await running.worker.call("health", deadline_s=5.0)
        late, _ = await ends([running.group(ask("late"))])
        return results + late, seconds, health

    results, seconds, health = running.wait(run())
    for failure in results:
        assert isinstance(failure, WorkerFailure)
        assert isinstance(failure.__cause__, EngineLostError)
        assert "rollout-0 lost its engine, whose process is gone: start a new worker" in str(failure)
    assert seconds < LOSS_DEADLINE_S
    assert not health.well
    assert "process is gone" in health.reason


def test_for_the_run_a_worker_without_engine_is_dead(running):
    """The driver's handle turns the loss into a dead worker, ends the actor, and leaves no process behind."""

    async def run():
        worker = RayRollout(running.worker, CONFIG)
        calls = [asyncio.create_task(whole_group(worker.generate(ask(f"g{i}")))) for i in range(3)]
        await asyncio.sleep(0.5)
        engine = engine_process(running.worker)
        os.kill(engine, signal.SIGKILL)
        results, seconds = await ends(calls)
        assert await gone(engine, running.worker.pid)
        return results, seconds

    results, seconds = running.wait(run())
    assert [(type(failure), failure.died) for failure in results] == [(WorkerFailure, True)] * 3
    assert any("lost its engine" in str(failure) for failure in results)
    assert seconds < LOSS_DEADLINE_S


def test_a_frozen_engine_is_noticed_and_ended(running):
    """SIGSTOP instead of SIGKILL: no step for stuck_after_s, so the worker counts as dead, and its processes end."""

    async def run():
        worker = RayRollout(running.worker, CONFIG)
        calls = [asyncio.create_task(whole_group(worker.generate(ask(f"g{i}")))) for i in range(3)]
        await asyncio.sleep(0.5)
        engine = engine_process(running.worker)
        os.kill(engine, signal.SIGSTOP)
        results, seconds = await ends(calls)
        assert await gone(engine, running.worker.pid)
        return results, seconds

    results, seconds = running.wait(run())
    assert [(type(failure), failure.died) for failure in results] == [(WorkerFailure, True)] * 3
    assert any("is stuck: it holds" in str(failure) for failure in results)
    step_s = 0.5  # silence counts from the last step, which was over before the signal
    assert CONFIG.stuck_after_s - step_s < seconds < CONFIG.stuck_after_s + LOSS_DEADLINE_S


def test_a_killed_worker_ends_every_call(running):
    """kill -9 of the actor itself: its calls end as those of a dead worker, and its engine process follows it."""

    async def run():
        worker = RayRollout(running.worker, CONFIG)
        calls = [asyncio.create_task(whole_group(worker.generate(ask(f"g{i}")))) for i in range(2)]
        await asyncio.sleep(0.5)
        engine = engine_process(running.worker)
        os.kill(running.worker.pid, signal.SIGKILL)
        results, seconds = await ends(calls)
        assert await gone(engine)
        return results, seconds

    results, seconds = running.wait(run())
    assert [(type(failure), failure.died) for failure in results] == [(WorkerFailure, True)] * 2
    assert seconds < LOSS_DEADLINE_S
