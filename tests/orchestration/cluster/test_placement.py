"""Places in a Ray cluster: who finds none waits, is told why, or joins when a node comes; and a run that does so."""

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestration.cluster import placement
from orchestration.cluster.bundles import Bundle
from orchestration.errors import ConfigError, StallError, WorkerFailure
from orchestration.on_ray.actor import Service

DEADLINE_S = 400


@pytest.fixture
def everything(ray_cluster) -> Bundle:
    """All CPUs of the tests' Ray."""
    import ray

    return Bundle(cpus=ray.cluster_resources()["CPU"])


class Place:
    """A service that says where it is."""

    def node(self) -> str:
        import ray

        return ray.get_runtime_context().get_placement_group_id()


def test_who_finds_no_room_joins_when_there_is_some(everything):
    """A second claim on the whole machine waits while the first is held, and has it as soon as that is given back."""

    async def run():
        first = await placement.reserve("first", [everything], deadline_s=30.0)
        second = asyncio.create_task(placement.reserve("second", [everything], deadline_s=0.1, may_wait=lambda: True))
        await asyncio.sleep(1.0)
        waited = not second.done()
        placement.release(first)
        placement.release(await asyncio.wait_for(second, 30.0))
        return waited

    assert asyncio.run(run())


def test_who_may_not_wait_is_told_what_there_is(ray_cluster):
    """After the deadline: who, what it wanted, what the nodes have, what to do; and its claim is given up."""

    async def run():
        with pytest.raises(StallError) as error:
            await placement.reserve("rollout-0", [Bundle(cpus=1, gpus=8)], deadline_s=0.2)
        return str(error.value)

    message = asyncio.run(run())
    assert re.search(r"rollout-0 waited \d+ s for 1 CPU and 8 GPU, and the nodes .*\(\d+ CPU", message)
    assert "ray start --address" in message


def test_nodes_are_chosen_by_their_labels(ray_cluster):
    """A place on the node with the label, at its address; none where no node has it, and the sentence names it."""
    import ray

    (node,) = ray.nodes()
    label = {"ray.io/node-id": node["NodeID"]}  # of those that Ray itself gives

    async def run():
        group = await placement.reserve("here", [Bundle(cpus=1, labels=label)] * 2, deadline_s=30.0)
        address = placement.address(group)
        placement.release(group)
        placement.release(await placement.reserve("nothing", [Bundle(cpus=0, labels=label)], deadline_s=30.0))
        with pytest.raises(StallError) as error:
            await placement.reserve("rollout-0", [Bundle(cpus=1, labels={"role": "rollout"})], deadline_s=0.2)
        with pytest.raises(ConfigError, match="cluster.node_labels of rollout-0: .*in"):
            await placement.reserve("rollout-0", [Bundle(cpus=1, labels={"role": "in()"})], deadline_s=0.2)
        return address, str(error.value)

    address, message = asyncio.run(run())
    assert address == node["NodeManagerAddress"]
    assert re.search(r"rollout-0 waited \d+ s for 1 CPU where role=rollout, and the nodes .*\(\d+ CPU\) have", message)
    assert "add a node with `ray start --address --labels`" in message


def test_a_wait_that_is_cancelled_leaves_no_claim(everything):
    """Whoever stops waiting does not take the room later."""

    async def run():
        first = await placement.reserve("first", [everything], deadline_s=30.0)
        second = asyncio.create_task(placement.reserve("second", [everything], deadline_s=30.0))
        await asyncio.sleep(0.3)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        placement.release(first)
        placement.release(await placement.reserve("third", [everything], deadline_s=30.0))

    asyncio.run(run())


def test_an_actor_sits_in_its_bundle_and_goes_with_it(ray_cluster, tmp_path):
    """The actor's placement group is the one reserved for it; giving that back ends the actor."""

    async def run():
        group = await placement.reserve("place", [Bundle(cpus=1)], deadline_s=30.0)
        service = await Service.start(
            "place", tmp_path / "log", Place, (), cpus=1, seat=placement.Seat(group).strategy, env={}, deadline_s=60.0
        )
        where = await service.call("node", deadline_s=30.0)
        placement.release(group)
        await asyncio.sleep(1.0)
        with pytest.raises(WorkerFailure, match="place died"):
            await service.call("node", deadline_s=30.0)
        return group.id.hex(), where

    expected, found = asyncio.run(run())
    assert found == expected


# A cluster in a process of its own: the tests' one has its own Ray. It gets a node when its standard input says so.
CLUSTER = """
import sys
from ray.cluster_utils import Cluster
node = {"object_store_memory": 128 * 2**20, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, **node})
print(cluster.address, flush=True)
sys.stdin.readline()
cluster.add_node(num_cpus=1, **node)
sys.stdin.readline()
cluster.shutdown()
"""


@pytest.mark.slow
@pytest.mark.timeout(2 * DEADLINE_S)
def test_a_node_that_comes_late_joins_the_running_training(tmp_path):
    """rollout.workers=2 where there is room for one: the run trains; then a new node's engine joins and draws too."""
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    folder, console = tmp_path / "run", tmp_path / "console"
    with (
        subprocess.Popen(
            [sys.executable, "-c", CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        ) as cluster,
        console.open("w") as output,
    ):
        address = cluster.stdout.readline().strip()
        arguments = [
            *("experiment=quickstart", f"run.dir={folder}", "cluster=ray", f"cluster.address={address}"),
            *("rollout.workers=2", "run.steps=1000", "run.groups_per_step=4", "run.group_size=8"),
            *("model.training.steps=30", "monitor.wandb=disabled", "eval.tasks=4", "eval.every=0"),
        ]
        with subprocess.Popen(
            [sys.executable, "-m", "orchestration.cli", "train", *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
        ) as run:
            try:
                log = folder / "logs" / "driver.log"
                wait_for(lambda: log.exists() and "rollout-1 waits for 1 CPU and joins" in log.read_text(), run)
                wait_for(lambda: len(steps(folder)) >= 2, run)
                assert "rollout-1 is up" not in log.read_text()
                cluster.stdin.write("more\n")
                cluster.stdin.flush()
                wait_for(lambda: any(row.get("rollout/rollout-1/tokens_per_s") for row in steps(folder)), run)
                assert "rollout-1 is up" in log.read_text()
                assert not any("rollout-1" in key for key in steps(folder)[0])
                run.terminate()  # it ends with a checkpoint
                assert run.wait(timeout=DEADLINE_S) == 0, console.read_text()
            finally:
                run.kill()
                cluster.stdin.close()  # which ends it


def steps(folder: Path) -> list[dict]:
    file = folder / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [row for row in rows if "train/reward" in row]


def wait_for(condition, run: subprocess.Popen) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
