"""Places for actors in a Ray cluster: a placement group for every engine, one for the learner, one for the verifiers.

    bundles --reserve--> placement group --seat--> Service.start(..., seat=)
                 waits until some nodes have room, also for nodes that do not exist yet

An engine's group is one bundle, so it lies on one node with all its GPUs. The learner's has a bundle for each rank,
laid out as `cluster.learner_placement` says, and the verifiers' reserves no more than a place. Nodes are those with the
labels of the bundle. When an engine ends, its group is given back.
"""

import asyncio
import contextlib
import logging
import random
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from orchestration.cluster.bundles import Bundle
from orchestration.errors import ConfigError, StallError

PLACE = {"memory": 1}  # bytes: Ray makes no group of nothing
MEETING_PORTS = (20000, 32768)
RAYS_OWN = "ray.io/"  # labels that Ray gives every node
FIRST_LOOK_S, LAST_LOOK_S = 0.01, 1.0  # between looks, ever longer: at home there is room at once
NOTED_AFTER_S = 5.0  # a wait is written into the driver's log

log = logging.getLogger(__name__)


async def reserve(
    who: str,
    bundles: Sequence[Bundle],
    *,
    strategy: str = "STRICT_PACK",
    deadline_s: float,
    may_wait: Callable[[], bool] = lambda: False,
) -> PlacementGroup:
    """A group of these bundles, once nodes have room for it.

    Raises StallError after `deadline_s`, unless `may_wait()`: then the run goes on without `who` until there is room;
    and ConfigError for labels that Ray cannot read.
    """
    resources, labels = [bundle.resources or PLACE for bundle in bundles], [dict(bundle.labels) for bundle in bundles]
    try:
        group = placement_group(resources, strategy=strategy, bundle_label_selector=labels)
    except ValueError as error:
        raise ConfigError(f"cluster.node_labels of {who}: {' '.join(str(error).split())}") from error
    wanted = f"{len(bundles)} x ({bundles[0]})" if len(bundles) > 1 else str(bundles[0])
    began, pause_s, noted = time.monotonic(), FIRST_LOOK_S, False
    try:
        while (await asyncio.to_thread(placement_group_table, group))["state"] != "CREATED":
            waited_s = time.monotonic() - began
            if waited_s > deadline_s and not may_wait():
                how = "ray start --address --labels" if bundles[0].labels else "ray start --address"
                raise StallError(
                    f"{who} waited {waited_s:.0f} s for {wanted}, and the nodes of the Ray cluster ({_nodes()}) have no"
                    f" room for it: add a node with `{how}`, or ask for less"
                )
            if waited_s > NOTED_AFTER_S and not noted:
                log.info("%s waits for %s and joins when a node has room; the nodes are: %s", who, wanted, _nodes())
                noted = True
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LAST_LOOK_S)
    except BaseException:
        remove_placement_group(group)
        raise
    return group


@dataclass(frozen=True)
class Seat:
    """Where an actor goes: one bundle of a group. `lent`: the group is another's, who gives it back."""

    group: PlacementGroup
    bundle: int = 0
    lent: bool = False

    @property
    def strategy(self) -> PlacementGroupSchedulingStrategy:
        return PlacementGroupSchedulingStrategy(placement_group=self.group, placement_group_bundle_index=self.bundle)

    def give_back(self) -> None:
        if not self.lent:
            release(self.group)


def address(group: PlacementGroup) -> str:
    """Of the node that holds the first bundle, as the other nodes reach it."""
    holder = placement_group_table(group)["bundles_to_node_id"][0]
    return next(node["NodeManagerAddress"] for node in ray.nodes() if node["NodeID"] == holder)


def meeting_port() -> int:
    """For ranks to meet at. It is bound only seconds later, so it must lie where nobody takes ports by chance: above
    Ray's workers (10002-19999) and below what the kernel hands out by itself (32768 and up). Tried on this host;
    where rank 0 is on another, it is all but certainly free there."""
    while True:
        port = random.randrange(*MEETING_PORTS)
        with socket.socket() as attempt, contextlib.suppress(OSError):
            attempt.bind(("", port))
            return port


def release(group: PlacementGroup) -> None:
    """Give the room back; actors that are still in it are killed."""
    remove_placement_group(group)


def _nodes() -> str:
    return ", ".join(str(_bundle(node)) for node in ray.nodes() if node["Alive"])


def _bundle(node: Mapping[str, Any]) -> Bundle:
    labels = {key: value for key, value in node["Labels"].items() if not key.startswith(RAYS_OWN)}
    resources = node["Resources"]
    return Bundle(cpus=resources.get("CPU", 0.0), gpus=resources.get("GPU", 0.0), labels=labels)
