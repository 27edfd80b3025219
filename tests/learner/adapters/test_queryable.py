"""Queryable LoRA in a whole model against a loop that carries the queries of earlier blocks along by hand."""

import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from learner.adapters import attach
from learner.adapters.queryable import MEMORY, QueryableLinear, QueryableLora
from learner.adapters.targets import NamedLayers
from learner.config import LearnerConfig

CONFIG = QueryableLora(
    rank=3, atoms=5, top_k=2, keys=4, block=1, scaling=1.5, targets=NamedLayers(names=("up_proj", "down_proj"))
)


def softmax(values):
    powers = [math.exp(value) for value in values]
    return [power / sum(powers) for power in powers]


def slow(memory, layers, inputs):
    """Deltas of the layers, called in this order on `inputs`, for one token."""
    summaries, queries, block, context, deltas = [], [], None, None, []
    for layer, x in zip(layers, inputs, strict=True):
        z = layer.low_A @ x
        own = layer.query_own @ z
        if layer.block != block:
            if queries:
                summaries.append(sum(queries) / len(queries))
            queries, block, context = [], layer.block, torch.zeros_like(own)
            if summaries:
                a = softmax([float(own @ one) / math.sqrt(4) for one in summaries])
                context = sum(weight * one for weight, one in zip(a, summaries, strict=True))
        query = own + layer.query_context @ context if summaries else own
        queries.append(query)
        logits = [float(query @ key) / math.sqrt(4) for key in memory.keys]
        best = sorted(range(5), key=lambda k: -logits[k])[:2]
        a = softmax([logits[k] for k in best])
        operator = sum(weight * memory.atoms[k] for weight, k in zip(a, best, strict=True))
        deltas.append(1.5 * layer.low_B @ (operator @ z))
    return deltas


@torch.no_grad()
def test_a_model_by_a_loop(build_model, shake, tokens, tmp_path):
    """Of every token and layer, with up to two earlier blocks to attend to; a second forward pass starts afresh."""
    folder = build_model(tmp_path, num_hidden_layers=3)
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")
    attach(model, CONFIG, seed=0)
    shake(model)
    layers = [layer for layer in model.modules() if isinstance(layer, QueryableLinear)]
    assert [layer.block for layer in layers] == [0, 0, 1, 1, 2, 2]
    seen = []
    handles = [layer.register_forward_hook(lambda layer, x, y: seen.append((x[0], y))) for layer in layers]
    for _ in range(2):
        seen.clear()
        model(input_ids=tokens, use_cache=False)
        for row, place in ((0, 0), (2, 8), (1, 4)):
            inputs = [x[row, place] for x, _ in seen]
            found = [
                y[row, place] - layer.base_layer(x[row, place]) for layer, (x, y) in zip(layers, seen, strict=True)
            ]
            for one, expected in zip(found, slow(getattr(model, MEMORY), layers, inputs), strict=True):
                torch.testing.assert_close(one, expected, atol=1e-5, rtol=1e-4)
    for handle in handles:
        handle.remove()


def test_the_memory_is_one_for_all(adapted):
    """Its parameters are trained once, and keep nothing between forward passes."""
    model = adapted(CONFIG)
    trained = [name for name, one in model.named_parameters() if one.requires_grad and MEMORY in name]
    assert trained == [f"{MEMORY}.atoms", f"{MEMORY}.keys"]
    assert sum(name.endswith("atoms") for name in model.state_dict()) == 1
    model(input_ids=torch.tensor([[1, 2, 3]]))
    memory = getattr(model, MEMORY)
    assert (memory._summaries, memory._queries, memory._context) == ([], [], None)


def test_zero_3_is_refused():
    with pytest.raises(ValueError, match="learner.adapter=QueryableLora has parameters that several layers read"):
        LearnerConfig(adapter=CONFIG, zero_stage=3)
