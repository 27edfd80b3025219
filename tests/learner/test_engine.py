"""What the optimizer does is the same at every ZeRO stage and in bfloat16; ranks and ZeRO-3 are in test_ranks.py."""

import pytest
import torch

from tests.learner.test_worker import start, weights_of

DEEPSPEEDS_IMPORT = "ignore:.torch.jit.script_method. is deprecated:DeprecationWarning"

__all__ = ["start"]  # a fixture


@pytest.mark.filterwarnings(DEEPSPEEDS_IMPORT)
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_gradients_are_clipped_alike_at_every_stage(stage, start, make_batch):
    """The norm that is reported is the one before, and the moments are those of the gradient after."""
    batch = make_batch(rewards=[1, 0, 0, 1] * 4)
    whole, clipped = start(zero_stage=stage, max_grad_norm=1e9), start(zero_stage=stage, max_grad_norm=1e-3)
    norm = whole.train(batch).metrics["train/grad_norm"]
    assert clipped.train(batch).metrics["train/grad_norm"] == pytest.approx(norm)
    parameter = "model.model.layers.0.mlp.up_proj.weight"
    first, second = (
        one.engine.masters.whole(one.policy.get_parameter(parameter), "exp_avg") for one in (whole, clipped)
    )
    torch.testing.assert_close(second, first * 1e-3 / norm, atol=0, rtol=1e-2)
    assert second.abs().max() > 0


@pytest.mark.filterwarnings(DEEPSPEEDS_IMPORT)
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_bfloat16_learns_in_the_same_direction(stage, start, make_batch):
    """Weights are bfloat16, the optimizer's copy is float32, and the first step moves weights as in float32."""
    rounded, exact = start(dtype="bfloat16", zero_stage=stage, lr=0.02), start(lr=0.02)
    start_weights = weights_of(exact)
    batch = make_batch(temperature=1.0)
    rounded_metrics, exact_metrics = rounded.train(batch).metrics, exact.train(batch).metrics
    assert rounded_metrics["train/grad_norm"] == pytest.approx(exact_metrics["train/grad_norm"], rel=0.2)
    name = "model.layers.0.mlp.up_proj.weight"
    moved, expected = weights_of(rounded)[name], weights_of(exact)[name]
    assert moved.dtype == torch.bfloat16
    agreement = torch.nn.functional.cosine_similarity(
        (moved.float() - start_weights[name]).flatten(), (expected - start_weights[name]).flatten(), dim=0
    )
    assert agreement > 0.8


@pytest.mark.filterwarnings(DEEPSPEEDS_IMPORT)
def test_bfloat16_loses_no_small_update(start, make_batch):
    """Steps too small for a bfloat16 weight to notice add up in the optimizer's float32, as in a float32 run."""
    rounded, exact = start(dtype="bfloat16", lr=1e-5), start(lr=1e-5)
    parameter = "model.model.layers.0.mlp.up_proj.weight"
    before = rounded.policy.get_parameter(parameter).detach().clone()
    begun = [
        one.engine.masters.whole(one.policy.get_parameter(parameter), "weight").clone() for one in (rounded, exact)
    ]
    for step in range(6):
        batch = make_batch(step=step, rewards=[1, 0, 0, 1] * 4, temperature=1.0)
        rounded.train(batch)
        exact.train(batch)
    moved = [
        one.engine.masters.whole(one.policy.get_parameter(parameter), "weight") - begin
        for one, begin in zip((rounded, exact), begun, strict=True)
    ]
    assert torch.nn.functional.cosine_similarity(moved[0].flatten(), moved[1].flatten(), dim=0) > 0.8
    assert moved[0].norm().item() == pytest.approx(moved[1].norm().item(), rel=0.1)
    assert (rounded.policy.get_parameter(parameter) == before).float().mean() > 0.9
