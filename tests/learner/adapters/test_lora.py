"""Plain LoRA against its formula, its options, and the sentences about values that cannot be."""

import pytest
import torch

from learner.adapters.lora import Lora
from learner.adapters.targets import NamedLayers
from learner.config import LearnerConfig
from learner.errors import ModelError

DOWN = "model.layers.1.mlp.down_proj"


@pytest.mark.parametrize(("stabilised", "scaling"), [(False, 6 / 4), (True, 6 / 2)])
def test_a_layer_by_its_formula(stabilised, scaling, adapted, base):
    """W x + s B A x, with s = alpha / rank or alpha / sqrt(rank)."""
    layer = adapted(Lora(rank=4, alpha=6.0, rank_stabilised=stabilised)).get_submodule(DOWN)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    assert (a.shape, b.shape) == ((4, 48), (32, 4))
    x = torch.randn(48, generator=torch.Generator().manual_seed(0))
    expected = base.get_submodule(DOWN).weight @ x + scaling * (b @ (a @ x))
    torch.testing.assert_close(layer(x[None])[0], expected, atol=1e-5, rtol=1e-5)


def test_layers_by_name_and_all_but_the_head(adapted):
    def layers(adapter):
        return [name for name, layer in adapted(adapter, 0).named_modules() if hasattr(layer, "lora_A")]

    assert layers(Lora(targets=NamedLayers(names=("q_proj", "down_proj")))) == [
        f"model.layers.{depth}.{name}" for depth in (0, 1) for name in ("self_attn.q_proj", "mlp.down_proj")
    ]
    assert len(layers(Lora())) == 2 * 7


def test_dropout_acts_where_a_gradient_is_taken(adapted, logits, tokens):
    """What draws, scores and publishes never drops anything; half of the inputs of A are gone in training."""
    whole, dropping = adapted(Lora(rank=4)), adapted(Lora(rank=4, dropout=0.5))
    assert torch.equal(logits(dropping, tokens), logits(whole, tokens))
    layer = dropping.get_submodule(DOWN)
    dropout = layer.lora_dropout["default"]
    x = torch.ones(10_000)
    assert set(dropout(x).tolist()) == {0.0, 2.0}
    assert (dropping(input_ids=tokens).logits - logits(whole, tokens)).abs().max() > 0.01


@pytest.mark.parametrize("seed", [0, 1])
def test_ranks_of_one_seed_start_alike(seed, base):
    """Whatever random numbers the process has drawn; and they are not disturbed."""
    import copy

    from learner.adapters import attach

    found = []
    for draws in (3, 17):
        torch.manual_seed(draws)
        model = copy.deepcopy(base)
        attach(model, Lora(rank=4), seed)
        found.append((model.get_submodule(DOWN).lora_A["default"].weight, torch.rand(1)))
        torch.manual_seed(draws)
        assert torch.equal(found[-1][1], torch.rand(1))
    assert torch.equal(found[0][0], found[1][0])


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"rank": 0}, "learner.adapter.rank is positive, got 0"),
        ({"alpha": -1.0}, "learner.adapter.alpha is positive"),
        ({"dropout": 1.0}, r"learner.adapter.dropout is in \[0, 1\), got 1.0"),
        ({"init": "pissa"}, "learner.adapter.init is one of kaiming, gaussian, orthogonal, got 'pissa'"),
        ({"init": "orthogonal", "rank": 3}, "learner.adapter.init=orthogonal takes an even rank, got 3"),
        ({"publish": "never"}, "learner.adapter.publish is 'alone' or 'merged', got 'never'"),
        ({"targets": "q_proj"}, "learner.adapter.targets is NamedLayers or LowestCondition, got 'q_proj'"),
    ],
)
def test_impossible_values_are_named(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        Lora(**wrong)


def test_a_layer_that_is_not_there_is_named(adapted):
    with pytest.raises(ModelError, match="has q_prj, but the linear layers of Qwen2ForCausalLM are called down_proj, "):
        adapted(Lora(targets=NamedLayers(names=("q_prj",))))


def test_the_head_is_no_target(adapted):
    with pytest.raises(ModelError, match="targets.names has lm_head, but"):
        adapted(Lora(targets=NamedLayers(names=("lm_head",))))


def test_something_else_is_no_adapter():
    with pytest.raises(ValueError, match="learner.adapter is null or an adapter of learner.adapters, got dict"):
        LearnerConfig(adapter={"rank": 4})
