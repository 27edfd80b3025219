"""What each actor of a run reserves, and how many nodes of a kind hold them all. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from orchestration.config import RunPlan


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """Of one process, or of one node. An actor's bundle lies on one node."""

    cpus: float
    gpus: float = 0.0

    @property
    def resources(self) -> dict[str, float]:
        """As Ray counts them; a resource of which nothing is wanted is left out."""
        return {name: amount for name, amount in (("CPU", self.cpus), ("GPU", self.gpus)) if amount}

    def __str__(self) -> str:
        return " and ".join(f"{amount:g} {name}" for name, amount in self.resources.items()) or "nothing"


def engine_bundle(plan: RunPlan) -> Bundle:
    """Of one rollout worker: all GPUs of its tensor-parallel engine."""
    return Bundle(cpus=plan.rollout.threads, gpus=plan.rollout.num_gpus)


def rank_bundle(plan: RunPlan) -> Bundle:
    """Of one rank of the learner."""
    return Bundle(cpus=plan.learner.threads, gpus=plan.learner.num_gpus)


def bundles_of(plan: RunPlan) -> list[Bundle]:
    """Of all actors of a run; the verifiers reserve nothing."""
    return [engine_bundle(plan)] * plan.rollout.workers + [rank_bundle(plan)] * plan.learner.ranks


def nodes_needed(bundles: Sequence[Bundle], node: Bundle) -> int | None:
    """Nodes that hold all bundles, the largest placed first and each where it first fits; None where one fits no node.

    11/9 of the fewest possible at most, and exact where the sizes divide each other, as 1, 2, 4 and 8 GPUs do.
    """
    free: list[Bundle] = []
    for bundle in sorted(bundles, key=lambda bundle: (bundle.gpus, bundle.cpus), reverse=True):
        for index, room in enumerate([*free, node]):
            if bundle.gpus <= room.gpus and bundle.cpus <= room.cpus:
                free[index : index + 1] = [Bundle(cpus=room.cpus - bundle.cpus, gpus=room.gpus - bundle.gpus)]
                break
        else:
            return None
    return len(free)
