"""DynMoLE against a loop over tokens, and the invariants of its selection."""

import math

import pytest
import torch

from learner.adapters.dynmole import DynMole, DynMoleLinear, kept


def entropy(pi, q=1.1, eps=1e-5):
    return (1 - sum((p + eps) ** q for p in pi)) / (q - 1) / ((1 - len(pi) ** (1 - q)) / (q - 1))


def chosen(pi, config):
    order = sorted(range(len(pi)), key=lambda e: -pi[e])
    keep = {e for place, e in enumerate(order) if sum(pi[i] for i in order[: place + 1]) <= config.top_p}
    keep |= set(order[: config.least])
    if config.threshold < 1 and entropy(pi) > config.threshold:
        keep = set(order)
    return keep


@pytest.mark.parametrize(("scale", "least"), [(0.05, 2), (0.5, 1), (2.0, 1)])
def test_a_layer_by_a_loop(scale, least, linear, shake):
    base, x = linear
    config = DynMole(experts=6, rank=3, scaling=1.5, least=least)
    layer = shake(DynMoleLinear(base, config), 1.0)
    with torch.no_grad():
        layer.router *= scale
    rows, weights = [], []
    for token in x:
        powers = [math.exp(value) for value in (layer.router @ token).tolist()]
        pi = [power / sum(powers) for power in powers]
        keep = chosen(pi, config)
        weights.append([p if e in keep else 0.0 for e, p in enumerate(pi)])
        y = base.weight @ token + base.bias
        for e in keep:
            y = y + 1.5 * pi[e] * (layer.experts_B[:, e] @ (layer.experts_A[e] @ token))
        rows.append(y)
    torch.testing.assert_close(layer(x), torch.stack(rows), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(layer.stats.weights.double(), torch.tensor(weights).double(), atol=1e-6, rtol=0)


def test_selection_by_hand():
    """.5 + .25 is at most .75; .5 alone is what top-p leaves of a peak; flat rows keep all."""
    config = DynMole(experts=4, least=1, top_p=0.75, threshold=0.95)
    rows = torch.tensor([[0.5, 0.25, 0.15, 0.1], [0.1, 0.74, 0.1, 0.06], [0.9, 0.05, 0.03, 0.02], [0.25] * 4])
    assert kept(rows, config).tolist() == [
        [True, True, False, False],
        [False, True, False, False],
        [True, False, False, False],
        [True, True, True, True],
    ]


@pytest.mark.parametrize(
    ("config", "all_kept"),
    [
        (DynMole(threshold=0.0), True),
        (DynMole(top_p=1.0, threshold=1.0), True),
        (DynMole(least=6, threshold=1.0), True),
        (DynMole(threshold=1.0, least=1, top_p=0.5), False),
    ],
)
def test_invariants(config, all_kept):
    """Weights never sum to more than 1, and to 1 where everything is kept."""
    probs = torch.randn(200, 6, generator=torch.Generator().manual_seed(0)).softmax(-1)
    weights = probs * kept(probs, config)
    total = weights.sum(-1)
    assert (total > 0).all()
    assert (total <= 1 + 1e-6).all()
    assert bool(torch.allclose(total, torch.ones(200))) == all_kept


def test_impossible_values_are_named():
    with pytest.raises(ValueError, match="learner.adapter.least is at most experts = 6, got 7"):
        DynMole(least=7)
    with pytest.raises(ValueError, match="learner.adapter.threshold is at least 0, got -1"):
        DynMole(threshold=-1)
