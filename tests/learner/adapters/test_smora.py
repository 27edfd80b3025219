"""SMoRA against a loop over tokens and ranks; with all ranks and equal gates it is LoRA."""

import math

import pytest
import torch

from learner.adapters.routed import RouterStats
from learner.adapters.smora import Smora, SmoraLinear


def slow(layer, x):
    """The gate of every rank from its own block's score, in plain numbers."""
    config, rows, gates = layer.config, [], []
    for token in x:
        scores = [1 / (1 + math.exp(-value)) for value in (layer.router @ token).tolist()]
        leaned = [s + config.speed * lean for s, lean in zip(scores, layer.leaning.tolist(), strict=True)]
        per_rank = [(leaned[i // config.block], scores[i // config.block]) for i in range(config.rank)]
        chosen = sorted(range(config.rank), key=lambda i: -per_rank[i][0])[: config.active]
        values = {i: per_rank[i][0 if config.bias_in_gate else 1] for i in chosen}
        total = sum(values.values())
        gate = [values.get(i, 0.0) / total * config.active for i in range(config.rank)]
        low = layer.low_A @ token
        y = layer.base_layer.weight @ token + layer.base_layer.bias
        for i in range(config.rank):
            y = y + config.alpha / config.active * gate[i] * low[i] * layer.low_B[:, i]
        rows.append(y)
        gates.append(gate[:: config.block])
    return torch.stack(rows), torch.tensor(gates, dtype=torch.float64)


@pytest.mark.parametrize(("block", "active"), [(1, 3), (2, 4), (4, 8), (1, 8)])
@pytest.mark.parametrize("bias_in_gate", [True, False])
def test_a_layer_by_a_loop(block, active, bias_in_gate, linear, shake):
    base, x = linear
    config = Smora(rank=8, active=active, block=block, alpha=3.0, speed=0.1, bias_in_gate=bias_in_gate)
    layer = shake(SmoraLinear(base, config), 1.0)
    layer.leaning += torch.arange(8 // block) - 2
    expected, gates = slow(layer, x)
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(layer.stats.weights.double(), gates, atol=1e-5, rtol=1e-5)


def test_all_ranks_and_equal_gates_are_lora(linear, shake):
    base, x = linear
    layer = shake(SmoraLinear(base, Smora(rank=4, active=4, alpha=6.0)), 1.0)
    torch.nn.init.zeros_(layer.router)
    expected = base(x) + 6 / 4 * (x @ layer.low_A.T @ layer.low_B.T)
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)


def test_blocks_that_are_chosen_too_often_lean_back(linear):
    """sign(mean - count), counted over the tokens of a step, then forgotten."""
    layer = SmoraLinear(linear[0], Smora(rank=4, active=1, speed=0.5))

    def chosen(*blocks):
        weights = torch.zeros(len(blocks), 4)
        weights[range(len(blocks)), blocks] = 1.0
        return RouterStats(probs=weights, weights=weights)

    layer.observe(chosen(0, 0, 1))
    layer.observe(chosen(0, 2, 2, 2, 1, 1, 0))  # 4, 3, 3, 0 of 10: mean 2.5
    layer.settle(1)
    assert layer.leaning.tolist() == [-1, -1, -1, 1]
    layer.settle(1)  # nothing was trained
    assert layer.leaning.tolist() == [-1, -1, -1, 1]
    layer.observe(chosen(0, 1, 2, 3))  # even
    layer.settle(1)
    assert layer.leaning.tolist() == [-1, -1, -1, 1]


def test_counts_are_those_of_all_ranks(linear, monkeypatch):
    """Here block 0 is chosen too often, on all ranks together block 1."""
    layer = SmoraLinear(linear[0], Smora(rank=2, active=1))
    weights = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    layer.observe(RouterStats(probs=weights, weights=weights))
    monkeypatch.setattr("learner.adapters.smora.dist.all_reduce", lambda counts: counts.add_(torch.tensor([0, 5])))
    layer.settle(2)
    assert layer.leaning.tolist() == [1, -1]


@pytest.mark.parametrize("wrong", [{"rank": 6, "block": 4}, {"active": 3, "block": 2}, {"rank": 4, "active": 8}])
def test_impossible_shapes_are_named(wrong):
    with pytest.raises(ValueError, match="rank and active are multiples of block, and active is at most rank, got"):
        Smora(**wrong)
