"""How many nodes hold a run, by hand-counted examples."""

import pytest

from orchestration.cluster.bundles import Bundle, bundles_of, nodes_needed, verifier_bundle
from orchestration.config import load_plan
from orchestration.errors import ConfigError

NODE = Bundle(cpus=32, gpus=8)


def of(gpus: float, count: int) -> list[Bundle]:
    return [Bundle(cpus=1, gpus=gpus)] * count


@pytest.mark.parametrize(
    ("bundles", "nodes"),
    [
        (of(1, 8), 1),
        (of(1, 9), 2),
        (of(4, 2) + of(1, 8), 2),
        (of(1, 4) + of(8, 1), 2),  # the whole node is not taken for the small ones first
        (of(5, 3), 3),  # two of 5 do not share 8
        (of(0, 32), 1),
        (of(0, 33), 2),  # CPUs count too
        (of(0.5, 16), 1),
        ([], 0),
    ],
)
def test_nodes_are_counted_by_what_fits_on_one(bundles, nodes):
    """A bundle is never divided among nodes."""
    assert nodes_needed(bundles, NODE) == nodes


def test_an_actor_larger_than_a_node_fits_none():
    """None, not a large number."""
    assert nodes_needed(of(1, 3) + of(16, 1), NODE) is None


def test_a_run_reserves_engines_and_ranks():
    """`rollout.workers` engines with all their GPUs, `learner.ranks` ranks; the verifiers reserve nothing."""
    plan = load_plan(
        [
            "rollout.workers=3",
            "rollout.tensor_parallel=4",
            "rollout.num_gpus=4",
            "learner.ranks=2",
            "learner.num_gpus=1",
        ]
    )
    assert [bundle.resources for bundle in bundles_of(plan)] == [{"CPU": 1, "GPU": 4}] * 3 + [{"CPU": 1, "GPU": 1}] * 2


def test_an_engine_beside_a_rank_is_in_its_bundle():
    """Two ranks with an engine each on two GPUs: two bundles of a whole GPU, and threads for both."""
    halves = ["rollout.num_gpus=0.5", "learner.num_gpus=0.5", "rollout.threads=3", "learner.threads=4"]
    plan = load_plan(["cluster.colocated=true", "rollout.workers=2", "learner.ranks=2", *halves])
    assert bundles_of(plan) == [Bundle(cpus=7, gpus=1)] * 2


def test_each_role_asks_for_nodes_with_its_labels():
    """`cluster.node_labels`, role by role; a role that is left out takes any node, as all do by default."""
    labels = ["cluster.node_labels.rollout={role:rollout,zone:'in(a,b)'}", "cluster.node_labels.verifier.role=verifier"]
    plan = load_plan(labels)
    engine, rank = bundles_of(plan)
    assert (engine.labels, rank.labels) == ({"role": "rollout", "zone": "in(a,b)"}, {})
    assert str(engine) == "1 CPU where role=rollout,zone=in(a,b)"
    assert str(rank) == "1 CPU"
    assert str(verifier_bundle(plan)) == "a place where role=verifier"
    assert not any(bundle.labels for bundle in [*bundles_of(load_plan([])), verifier_bundle(load_plan([]))])


def test_a_role_that_does_not_exist_is_named():
    """The sentence has the roles there are."""
    with pytest.raises(ConfigError, match="rolout; NodeLabels has rollout, learner, verifier; did you mean rollout?"):
        load_plan(["cluster.node_labels.rolout.role=x"])
