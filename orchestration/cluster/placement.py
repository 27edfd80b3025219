"""Places for actors in a Ray cluster: a placement group for every engine, and one for all ranks of the learner.

    bundles --reserve--> placement group --seat--> Service.start(..., seat=)
                 waits until some nodes have room, also for nodes that do not exist yet

An engine's group is one bundle, so it lies on one node with all its GPUs. The learner's has a bundle for each rank,
laid out as `cluster.learner_placement` says. When an engine ends, its group is given back.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

import ray
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from orchestration.cluster.bundles import Bundle
from orchestration.errors import StallError

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

    Raises StallError after `deadline_s`, unless `may_wait()`: then the run goes on without `who` until there is room.
    """
    group = placement_group([bundle.resources for bundle in bundles], strategy=strategy)
    wanted = f"{len(bundles)} x ({bundles[0]})" if len(bundles) > 1 else str(bundles[0])
    began, pause_s, noted = time.monotonic(), FIRST_LOOK_S, False
    try:
        while (await asyncio.to_thread(placement_group_table, group))["state"] != "CREATED":
            waited_s = time.monotonic() - began
            if waited_s > deadline_s and not may_wait():
                raise StallError(
                    f"{who} waited {waited_s:.0f} s for {wanted}, and the nodes of the Ray cluster ({_nodes()}) have no"
                    " room for it: add a node with `ray start --address`, or ask for less"
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


def seat(group: PlacementGroup, bundle: int = 0) -> PlacementGroupSchedulingStrategy:
    """Where an actor goes: one bundle of a group."""
    return PlacementGroupSchedulingStrategy(placement_group=group, placement_group_bundle_index=bundle)


def release(group: PlacementGroup) -> None:
    """Give the room back; actors that are still in it are killed."""
    remove_placement_group(group)


def _nodes() -> str:
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return ", ".join(str(Bundle(cpus=node.get("CPU", 0.0), gpus=node.get("GPU", 0.0))) for node in alive)
