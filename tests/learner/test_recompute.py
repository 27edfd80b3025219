"""Activation checkpointing changes what waits for the backward pass, and no number."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from learner.adapters.lora import Lora
from learner.config import LearnerConfig
from learner.errors import ModelError
from learner.objective import Objective
from learner.objective.advantage import GroupMean
from learner.objective.aggregate import TokenMean
from learner.objective.surrogate import Clipped
from learner.recompute import recompute_layers
from learner.worker import LearnerWorker

OBJECTIVE = Objective(advantage=GroupMean(), surrogate=Clipped(), aggregate=TokenMean())
LAYERS = 6


@pytest.fixture(scope="module")
def deep_path(build_model, tmp_path_factory):
    return build_model(tmp_path_factory.mktemp("deep"), num_hidden_layers=LAYERS)


def step_of(path, port, batch, **changes):
    """Metrics and gradient of one step, and the bytes that its layers kept for the backward pass."""
    config = LearnerConfig(lr=1e-3, mismatch_kl_limit=1e9, **changes)
    worker = LearnerWorker(path, config, OBJECTIVE, 0, 1, "127.0.0.1", port, 0, 10)
    gradient, kept = {}, {}

    def catch(lr):
        named = worker.policy.named_parameters()
        gradient.update({name: one.grad.clone() for name, one in named if one.requires_grad})
        return 1.0

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    worker.engine.step = catch
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        metrics = worker.train(batch).metrics
    own = {one.untyped_storage().data_ptr() for one in worker.policy.parameters()}
    return metrics, gradient, sum(size for place, size in kept.items() if place not in own)


@pytest.mark.parametrize("adapter", [None, Lora(rank=4, dropout=0.5)])
@pytest.mark.parametrize("layout", ["forest", "padded"])
def test_loss_and_gradient_are_the_same_and_less_is_kept(layout, adapter, deep_path, free_port, make_batch):
    """To 1e-6, dropout of an adapter included; activations of the layers are not kept."""
    batch = make_batch(groups=6, rewards=[1, 0, 0, 1] * 6)
    settings = {"layout": layout, "adapter": adapter, "micro_batch_tokens": 10_000}
    metrics, gradient, kept = step_of(deep_path, free_port, batch, **settings)
    again = step_of(deep_path, free_port, batch, activation_checkpointing=True, **settings)
    assert again[0]["train/loss"] == pytest.approx(metrics["train/loss"], abs=1e-6)
    assert again[1].keys() == gradient.keys()
    for name, expected in gradient.items():
        torch.testing.assert_close(again[1][name], expected, atol=1e-6, rtol=1e-5)
    assert max(one.abs().max() for one in gradient.values()) > 1e-3
    assert again[2] < kept / 2


def test_without_gradient_nothing_is_computed_twice(deep_path):
    """Scoring and lp_old run every layer once."""
    model = AutoModelForCausalLM.from_pretrained(deep_path).eval()
    recompute_layers(model)
    calls = []
    model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        model(input_ids=ids)
    assert len(calls) == 1
    model(input_ids=ids).logits.sum().backward()
    assert len(calls) == 3


def test_a_model_without_such_layers_is_refused():
    with pytest.raises(ModelError, match="no layers of Linear that .* learner.activation_checkpointing=false"):
        recompute_layers(torch.nn.Linear(2, 2))
