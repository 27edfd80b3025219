"""Every loss on routers by hand, and the invariants of algorithms on equal, orthogonal and single experts."""

import math

import numpy as np
import pytest
import torch

from learner.adapters.losses import Balance, Orthogonality, RoutingVariance, TsallisEntropy, tsallis
from learner.adapters.routed import RouterStats

PROBS = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
WEIGHTS = torch.tensor([[0.5, 0.3, 0.0], [0.0, 0.0, 0.8]])
STATS = RouterStats(probs=PROBS, weights=WEIGHTS)
FLAT = RouterStats(probs=torch.full((4, 5), 0.2), weights=torch.full((4, 5), 0.2))


def test_balance_by_hand():
    """E sum f P: soft f (.25, .15, .4), hard f (.25, .25, .5), P (.3, .2, .5)."""
    soft, hard = 3 * (0.25 * 0.3 + 0.15 * 0.2 + 0.4 * 0.5), 3 * (0.25 * 0.3 + 0.25 * 0.2 + 0.5 * 0.5)
    assert Balance(coefficient=2.0)([STATS]).item() == pytest.approx(2 * soft)
    assert Balance(coefficient=2.0, share="hard")([STATS]).item() == pytest.approx(2 * hard)
    assert Balance(coefficient=1.0)([FLAT]).item() == pytest.approx(1.0)
    assert Balance(coefficient=1.0)([FLAT, STATS]).item() == pytest.approx((1 + soft) / 2)


def test_balance_over_all_layers_pools_tokens():
    """Two layers that each overuse one expert are even together."""
    left = RouterStats(probs=torch.tensor([[1.0, 0.0]]), weights=torch.tensor([[1.0, 0.0]]))
    right = RouterStats(probs=torch.tensor([[0.0, 1.0]]), weights=torch.tensor([[0.0, 1.0]]))
    assert Balance(coefficient=1.0)([left, right]).item() == 2.0
    assert Balance(coefficient=1.0, over="all")([left, right]).item() == 1.0


@pytest.mark.parametrize("q", [1.0, 1.1, 2.0])
def test_tsallis_by_hand(q):
    row = [0.5, 0.3, 0.2]
    if q == 1.0:
        expected = -sum(p * math.log(p) for p in row) / math.log(3)
    else:
        expected = ((1 - sum(p**q for p in row)) / (q - 1)) / ((1 - 3 ** (1 - q)) / (q - 1))
    assert tsallis(torch.tensor(row, dtype=torch.float64), q, 0.0).item() == pytest.approx(expected)
    assert tsallis(torch.full((5,), 0.2, dtype=torch.float64), q, 0.0).item() == pytest.approx(1.0)
    assert tsallis(torch.tensor([0.0, 1.0], dtype=torch.float64), q, 1e-12).item() == pytest.approx(0.0, abs=1e-9)


def test_tsallis_entropy_is_a_mean_over_tokens():
    rows = [tsallis(row, 1.1, 1e-5).item() for row in PROBS]
    assert TsallisEntropy(coefficient=2.0)([STATS]).item() == pytest.approx(sum(rows))
    only = RouterStats(probs=torch.ones(3, 1), weights=torch.ones(3, 1))
    assert TsallisEntropy()([only]).item() == 0.0


def outputs_of(x, weights):
    return RouterStats(probs=torch.ones_like(weights), weights=weights, outputs=torch.tensor(x))


X = np.random.default_rng(0).normal(size=(4, 3, 6)).astype(np.float32)
CHOSEN = torch.tensor([[0.5, 0.3, 0.2], [0.5, 0.0, 0.5], [0.0, 1.0, 0.0], [0.6, 0.4, 0.0]])


@pytest.mark.parametrize("norm", ["cosine", "raw"])
def test_orthogonality_by_a_loop(norm):
    """Over ordered pairs of the experts a token selects; a token with one of them counts 0."""
    total = 0.0
    for x, weights in zip(X.astype(np.float64), CHOSEN.tolist(), strict=True):
        used = [e for e, weight in enumerate(weights) if weight > 0]
        pairs = [
            (x[j] @ x[k]) ** 2 / (x[k] @ x[k]) / (x[j] @ x[j] if norm == "cosine" else 1)
            for j in used
            for k in used
            if j != k
        ]
        total += (sum(pairs) / len(pairs) if norm == "cosine" else sum(pairs)) if pairs else 0.0
    found = Orthogonality(coefficient=3.0, norm=norm)([outputs_of(X, CHOSEN)])
    assert found.item() == pytest.approx(3 * total / 4, rel=1e-5)


def test_orthogonality_invariants():
    """Orthogonal 0, identical 1, blind to scale and to the order of experts, not to which token said it; 0 at 0."""
    everything = torch.full((4, 3), 1 / 3)
    one = Orthogonality(coefficient=1.0)
    value = one([outputs_of(X, everything)]).item()
    assert one([outputs_of(np.tile(np.eye(3, 6, dtype=np.float32), (4, 1, 1)), everything)]).item() == 0.0
    same = np.repeat(X[:, :1], 3, axis=1)
    assert one([outputs_of(same, everything)]).item() == pytest.approx(1.0, rel=1e-5)
    assert one([outputs_of(1000 * X, everything)]).item() == pytest.approx(value, rel=1e-4)
    assert one([outputs_of(X[:, [2, 0, 1]], everything)]).item() == pytest.approx(value, rel=1e-4)
    swapped = X.copy()
    swapped[[0, 1], 0] = X[[1, 0], 0]
    assert abs(one([outputs_of(swapped, everything)]).item() - value) > 1e-3
    nothing = torch.zeros(4, 3, 6, requires_grad=True)
    loss = one([RouterStats(probs=everything, weights=everything, outputs=nothing)])
    loss.backward()
    assert loss.item() == 0.0
    assert not nothing.grad.any()


def test_variance_by_hand():
    """Unbiased over experts within a token; or over tokens for each expert."""
    first, second = np.var([0.5, 0.3, 0.2], ddof=1), np.var([0.1, 0.1, 0.8], ddof=1)
    assert RoutingVariance(coefficient=2.0)([STATS]).item() == pytest.approx(-(first + second))
    token = 2 * (0.2**2 + 0.1**2 + 0.3**2) / 2
    assert RoutingVariance(coefficient=2.0, axis="token")([STATS]).item() == pytest.approx(-2 * token)
    for axis in ("expert", "token"):
        assert RoutingVariance(axis=axis)([FLAT]).item() == pytest.approx(0.0, abs=1e-9)
    only = RouterStats(probs=torch.ones(3, 1), weights=torch.ones(3, 1))
    assert RoutingVariance()([only]).item() == 0.0


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Balance(share="all"), "Balance.share is one of soft, hard, got 'all'"),
        (lambda: Balance(over="batch"), "Balance.over is one of layer, all, got 'batch'"),
        (lambda: Orthogonality(norm="l2"), "Orthogonality.norm is one of cosine, raw, got 'l2'"),
        (lambda: RoutingVariance(axis="row"), "RoutingVariance.axis is one of expert, token, got 'row'"),
    ],
)
def test_impossible_values_are_named(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
