"""Weights lent on a GPU: both sides compute one fingerprint, which sees every change; without a GPU there is none."""

import pytest
import torch

from learner import gpu_memory
from learner.errors import ModelError

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(3, dtype=torch.bfloat16), "c": torch.zeros(0)}
CHANGED = {
    "a value": TENSORS | {"b": torch.tensor([1.0, 1.0, 1.0078125], dtype=torch.bfloat16)},
    "the order": TENSORS | {"a": TENSORS["a"].flip(1)},
    "the shape": TENSORS | {"a": TENSORS["a"].view(3, 2)},
    "a name": {{"b": "d"}.get(name, name): one for name, one in TENSORS.items()},
    "one missing": {"a": TENSORS["a"], "b": TENSORS["b"]},
}


@pytest.mark.parametrize("kind", CHANGED)
def test_the_fingerprint_sees_every_change(kind):
    """Values, their places, shapes, names."""
    assert gpu_memory.fingerprint(TENSORS) == gpu_memory.fingerprint(dict(TENSORS))
    assert gpu_memory.fingerprint(CHANGED[kind]) != gpu_memory.fingerprint(TENSORS)


def test_both_sides_compute_the_same():
    """The learner's and the engine's, which may not import each other."""
    from rollout.vllm_adapter.weights.gpu_memory import fingerprint

    for tensors in (TENSORS, *CHANGED.values()):
        assert fingerprint(tensors) == gpu_memory.fingerprint(tensors)


def test_memory_of_no_gpu_cannot_be_lent():
    """One sentence that says which knobs to turn."""
    with pytest.raises(ModelError, match="a is on cpu: set learner.num_gpus, or rollout.transport=shared_memory"):
        gpu_memory.Lender().lend(TENSORS)
