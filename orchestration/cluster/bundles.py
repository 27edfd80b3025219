"""What each actor of a run reserves, and how many nodes of a kind hold them all. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from orchestration.config import RunPlan


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """Of one process, or of one node. An actor's bundle lies on one node. `labels`: such a node has, or must have."""

    cpus: float
    gpus: float = 0.0
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def resources(self) -> dict[str, float]:
        """As Ray counts them; a resource of which nothing is wanted is left out."""
        return {name: amount for name, amount in (("CPU", self.cpus), ("GPU", self.gpus)) if amount}

    def __str__(self) -> str:
        amounts = " and ".join(f"{amount:g} {name}" for name, amount in self.resources.items()) or "a place"
        return f"{amounts} where {','.join(map('='.join, self.labels.items()))}" if self.labels else amounts


def engine_bundle(plan: RunPlan) -> Bundle:
    """Of one rollout worker: all GPUs of its tensor-parallel engine."""
    labels = plan.cluster.node_labels.rollout
    return Bundle(cpus=plan.rollout.threads, gpus=plan.rollout.num_gpus, labels=labels)


def rank_bundle(plan: RunPlan) -> Bundle:
    """Of one rank of the learner, and of the engine beside it if they are colocated."""
    labels = plan.cluster.node_labels.learner
    shared = (plan.learner, plan.rollout) if plan.cluster.colocated else (plan.learner,)
    return Bundle(cpus=sum(one.threads for one in shared), gpus=sum(one.num_gpus for one in shared), labels=labels)


def verifier_bundle(plan: RunPlan) -> Bundle:
    """Of the verifiers: a place on a node, and nothing on it."""
    return Bundle(cpus=0, labels=plan.cluster.node_labels.verifier)


def bundles_of(plan: RunPlan) -> list[Bundle]:
    """Of all actors of a run that take room; the verifiers take none."""
    engines = [] if plan.cluster.colocated else [engine_bundle(plan)] * plan.rollout.workers
    return engines + [rank_bundle(plan)] * plan.learner.ranks


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
