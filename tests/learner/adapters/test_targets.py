"""Condition numbers against numpy, and the layers they choose."""

import math

import numpy as np
import pytest
import torch

from learner.adapters.lora import Lora
from learner.adapters.targets import LowestCondition, NamedLayers, condition_number


@pytest.mark.parametrize("shape", [(4, 4), (3, 9), (12, 5)])
def test_condition_numbers_are_numpys(shape):
    weight = np.random.default_rng(0).normal(size=shape)
    found = condition_number(torch.tensor(weight, dtype=torch.float32))
    assert found == pytest.approx(np.linalg.cond(weight), rel=1e-4)
    sigma = np.linalg.svd(weight, compute_uv=False)
    quantile = condition_number(torch.tensor(weight), "quantile")
    assert quantile == pytest.approx(sigma.max() / np.quantile(sigma, 0.05), rel=1e-4)


def test_round_spectra_have_one_and_singular_ones_none():
    turned = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)))[0]
    assert condition_number(7.5 * turned) == pytest.approx(1.0, abs=1e-5)
    assert condition_number(torch.diag(torch.tensor([1.0, 0.0]))) == math.inf
    assert condition_number(torch.diag(torch.tensor([6.0, 3.0, 2.0])).bfloat16()) == pytest.approx(3.0)


def test_the_lowest_come_first(base):
    """In the order of numpy's condition numbers; keep cuts there, and neither a factor nor the head change a thing."""
    names = [name for name, layer in base.named_modules() if isinstance(layer, torch.nn.Linear) and "layers" in name]
    kappas = {name: np.linalg.cond(base.get_submodule(name).weight.detach().double().numpy()) for name in names}
    order = tuple(sorted(names, key=kappas.get))
    assert LowestCondition(keep=100)(base) == order
    assert LowestCondition(keep=5)(base) == order[:5]
    mlp = tuple(name for name in order if "up_proj" in name or "gate_proj" in name)
    assert LowestCondition(keep=3, among=NamedLayers(names=("up_proj", "gate_proj")))(base) == mlp[:3]
    narrow = tuple(name for name in order if "mlp" not in name)
    assert LowestCondition(max_dim=47)(base) == narrow


def test_a_factor_changes_nothing(base):
    import copy

    scaled = copy.deepcopy(base)
    with torch.no_grad():
        scaled.get_submodule(LowestCondition(keep=1)(base)[0]).weight.mul_(1000.0)
    assert LowestCondition()(scaled) == LowestCondition()(base)


def test_they_get_the_adapters(adapted, base):
    model = adapted(Lora(rank=2, targets=LowestCondition(keep=4)), 0)
    found = {name for name, layer in model.named_modules() if hasattr(layer, "lora_A")}
    assert found == set(LowestCondition(keep=4)(base))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"keep": 0}, "targets.keep and max_dim are at least 1, got 0"),
        ({"smallest": "mean"}, "targets.smallest is 'min' or 'quantile', got 'mean'"),
    ],
)
def test_impossible_values_are_named(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        LowestCondition(**wrong)
