"""RadarGate against a loop with 2 x 2 rotation matrices; without angles it is a dense mixture of LoRA experts."""

import math

import pytest
import torch

from learner.adapters.lora_moe import LoraMoeLinear
from learner.adapters.radar_gate import RadarGate, RadarGateLinear

SHAPE = {"experts": 3, "rank": 4, "scaling": 1.5}


def softmax(values):
    powers = [math.exp(value) for value in values]
    return [power / sum(powers) for power in powers]


def slow(layer, x):
    rows = []
    for token in x:
        probs = softmax((layer.router @ token).tolist())
        u = [a @ token for a in layer.experts_A]
        y = layer.base_layer.weight @ token + layer.base_layer.bias
        for e in range(3):
            others = [j for j in range(3) if j != e]
            seen = [layer.alike @ one for one in u]
            a = dict(zip(others, softmax([float(seen[e] @ seen[j]) / 2 for j in others]), strict=True))
            f = u[e] + layer.fuse[e] * sum(a[j] * u[j] for j in others)
            theta = sum(a[j] * (layer.turn[e, j] - layer.turn[j, e]) for j in others) + layer.turn_by[e] @ f
            turned = torch.empty_like(u[e])
            for i, angle in enumerate(theta.tolist()):
                cos, sin = math.cos(angle), math.sin(angle)
                turn = torch.tensor([[cos, -sin], [sin, cos]], dtype=token.dtype)
                turned[2 * i : 2 * i + 2] = turn @ u[e][2 * i : 2 * i + 2]
            gate = probs[e] * (1 + math.tanh(layer.stretch[e]))
            y = y + layer.scaling * gate * (layer.experts_B[:, e] @ turned)
        rows.append(y)
    return torch.stack(rows)


def test_a_layer_by_a_loop(linear, shake):
    base, x = linear
    layer = shake(RadarGateLinear(base, **SHAPE), 0.7)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), slow(layer, x), atol=1e-5, rtol=1e-5)


def test_without_angles_it_is_a_mixture_of_loras(linear, shake):
    """As it starts: c, Phi, w and s are 0."""
    base, x = linear
    layer = RadarGateLinear(base, **SHAPE)
    torch.nn.init.normal_(layer.experts_B)
    mixture = LoraMoeLinear(base, top_k=3, **SHAPE)
    with torch.no_grad():
        for name in ("experts_A", "experts_B", "router"):
            getattr(mixture, name).copy_(getattr(layer, name))
    torch.testing.assert_close(layer(x), mixture(x), atol=1e-6, rtol=1e-6)


def test_rotations_keep_lengths(linear, shake):
    base, x = linear
    layer = shake(RadarGateLinear(base, **SHAPE), 1.0)
    states = layer.states(x)
    from learner.adapters.radar_gate import rotated

    turned = rotated(states, layer.angles(states))
    torch.testing.assert_close(turned.norm(dim=-1), states.norm(dim=-1))
    assert (turned - states).abs().max() > 0.1


@pytest.mark.parametrize("wrong", [{"rank": 3}, {"experts": 1}])
def test_impossible_shapes_are_named(wrong):
    with pytest.raises(ValueError, match="learner.adapter.experts is at least 2 and rank even, got"):
        RadarGate(**wrong)
