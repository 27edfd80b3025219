"""Mixtures of LoRA experts against a loop over tokens and experts, and HiLo's allocation by hand."""

import math

import pytest
import torch

from learner.adapters.lora_moe import HiLo, LoraMoe, LoraMoeLinear
from learner.errors import ModelError


def slow(layer, x, gates):
    """W x + b + s sum_e g_e B_e (A_e x), one token and one expert at a time."""
    rows = []
    for token, gate in zip(x, gates, strict=True):
        y = layer.base_layer.weight @ token + layer.base_layer.bias
        for e, g in enumerate(gate):
            y = y + layer.scaling * g * (layer.experts_B[:, e] @ (layer.experts_A[e] @ token))
        rows.append(y)
    return torch.stack(rows)


def softmax(values):
    powers = [math.exp(value) for value in values]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_token_routing_by_a_loop(top_k, linear, shake):
    """The likeliest experts, divided by their sum, in float64."""
    base, x = linear
    layer = shake(LoraMoeLinear(base, experts=4, rank=3, scaling=1.5, top_k=top_k), 1.0)
    gates = []
    for token in x:
        probs = softmax((layer.router @ token).tolist())
        chosen = sorted(range(4), key=lambda e: -probs[e])[:top_k]
        total = sum(probs[e] for e in chosen)
        gates.append([probs[e] / total if e in chosen else 0.0 for e in range(4)])
    torch.testing.assert_close(layer(x), slow(layer, x, gates), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        layer.stats.weights.double(), torch.tensor(gates, dtype=torch.float64), atol=1e-6, rtol=0
    )


def test_static_routing_by_a_loop_and_as_one_lora(linear, shake):
    """One mix for all tokens; a LoRA of rank E r has the same effect."""
    base, x = linear
    layer = shake(LoraMoeLinear(base, experts=3, rank=2, scaling=1.5, top_k=None), 1.0)
    expected = slow(layer, x, [softmax(layer.router.tolist())] * len(x))
    torch.testing.assert_close(layer(x), expected, atol=1e-6, rtol=1e-6)
    a, b = layer.factors("layer")
    assert (a.shape, b.shape) == ((6, 7), (5, 6))
    torch.testing.assert_close(base(x) + x @ a.T @ b.T, expected, atol=1e-6, rtol=1e-6)


def test_token_routing_is_no_matrix(linear):
    layer = LoraMoeLinear(linear[0], experts=3, rank=2, scaling=1.0, top_k=2)
    with pytest.raises(ModelError, match="adapter of model.layers.0.x mixes its experts anew for every token"):
        layer.factors("model.layers.0.x")


def test_ranks_rise_with_depth():
    """2, 4, 6, 8 in four equal groups; never more active experts than there are."""
    assert [HiLo()(layer, 8) for layer in range(8)] == [(n, n, 2) for n in (2, 2, 4, 4, 6, 6, 8, 8)]
    assert [HiLo()(layer, 2) for layer in range(2)] == [(2, 2, 2), (6, 6, 2)]
    flat = HiLo(least_rank=4, most_rank=4, least_experts=1, most_experts=3, top_k=2, groups=3)
    assert [flat(layer, 3) for layer in range(3)] == [(1, 4, 1), (2, 4, 2), (3, 4, 2)]
    assert HiLo(groups=1)(5, 6) == (2, 2, 2)


def test_layers_get_their_allocation(adapted):
    model = adapted(LoraMoe(allocation=HiLo(groups=2)))
    shapes = {
        name.split(".")[2]: tuple(layer.experts_A.shape[:2])
        for name, layer in model.named_modules()
        if isinstance(layer, LoraMoeLinear)
    }
    assert shapes == {"0": (2, 2), "1": (8, 8)}


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"top_k": 5}, "learner.adapter.top_k is at most experts = 4, got 5"),
        ({"rank": 0}, "learner.adapter.rank is positive, got 0"),
        ({"routing": "learned"}, "learner.adapter.routing is 'token' or 'static', got 'learned'"),
    ],
)
def test_impossible_values_are_named(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        LoraMoe(**wrong)
    with pytest.raises(ValueError, match="allocation.groups is at least 1, got 0"):
        HiLo(groups=0)
    with pytest.raises(ValueError, match="allocation.most_rank is at least least_rank"):
        HiLo(most_rank=1)
