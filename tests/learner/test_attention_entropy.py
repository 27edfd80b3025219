"""How widely a layer looks, against the attention that transformers' eager implementation returns."""

import dataclasses
import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from learner import attention_entropy
from learner.batch import Share, Trained
from learner.config import LearnerConfig
from learner.errors import ModelError
from learner.forward import Policy
from learner.model import load_model
from learner.objective import Objective
from learner.objective.advantage import GroupMean
from learner.objective.aggregate import TokenMean
from learner.objective.observations import AttentionEntropy
from learner.objective.regularisers import ReferenceKl
from learner.objective.surrogate import Clipped
from learner.objective.weights import LowToHigh
from learner.worker import LearnerWorker

FIRST, MIDDLE, LAST = (AttentionEntropy(layer=layer) for layer in (0.0, 0.5, 1.0))


def policy_of(path, layout) -> Policy:
    return Policy(load_model(path, torch.float32, torch.device("cpu")), layout=layout, head_chunk_mib=64)


def observed(policy, batch, wanted):
    """float32 [seq, tok] for each, and the mask."""
    policy.observe(wanted)
    trained = Trained(samples=batch.samples, advantages=torch.zeros(len(batch.samples)).numpy())
    micro = policy.micro_batch(trained, Share(indices=tuple(range(len(batch.samples))), live=True))
    _, _, *found = policy(micro, observed=wanted)
    return found, micro.mask


def eager(path, batch, layer, window=None):
    """Row by row: the heads' mean, its entropy, and the logarithm of how many positions it may look at."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64, attn_implementation="eager").eval()
    rows = []
    for sample in batch.samples:
        ids = torch.tensor([[*sample.prompt_ids, *sample.response_ids]], dtype=torch.int64)
        heads = model(input_ids=ids, output_attentions=True).attentions[layer][0]  # [head, query, key]
        values = []
        for place in sample.trained_places:
            at = len(sample.prompt_ids) - 1 + place
            seen = at + 1 if window is None else min(at + 1, window)
            mean = heads[:, at].mean(0)
            assert (mean > 0).sum() == seen
            entropy = -sum(p * math.log(p) for p in mean.tolist() if p > 0)
            values.append(entropy / math.log(seen) if seen > 1 else 0.0)
        rows.append(values)
    return rows


def assert_equal(found, mask, expected):
    for row, values in enumerate(expected):
        assert found[row][mask[row]].tolist() == pytest.approx(values, abs=1e-5)
    assert (found[~mask] == 0).all()


@pytest.mark.parametrize("limit", [attention_entropy.LIMIT, 200])
@pytest.mark.parametrize("layout", ["forest", "padded"])
@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_entropies_are_those_of_eager_attention(
    key_heads, layout, limit, build_model, make_batch, with_context, tmp_path, monkeypatch
):
    """In both layouts, with prefixes that samples share, shared keys, untrained tokens, and a few scores at a time."""
    monkeypatch.setattr(attention_entropy, "LIMIT", limit)
    path = build_model(tmp_path, num_key_value_heads=key_heads, num_hidden_layers=3)
    batch = with_context(make_batch(groups=3))
    batch = dataclasses.replace(batch, samples=tuple(one for one in batch.samples if len(one.trained_places)))
    assert any(len(sample.prompt_ids) == 1 for sample in batch.samples)  # a row with a single position
    policy = policy_of(path, layout)
    for wanted, layer in ((FIRST, 0), (MIDDLE, 1), (LAST, 2)):
        (found,), mask = observed(policy, batch, (wanted,))
        expected = eager(path, batch, layer)
        assert_equal(found, mask, expected)
        assert all(0.0 <= value <= 1.0 for values in expected for value in values)


def test_several_layers_at_once_and_log_probabilities_unchanged(model_path, make_batch):
    """What is observed is neither changed by it nor by the name under which attention is then known."""
    batch = make_batch(groups=2)
    for layout in ("forest", "padded"):
        policy = policy_of(model_path, layout)
        trained = Trained(samples=batch.samples, advantages=torch.zeros(len(batch.samples)).numpy())
        micro = policy.micro_batch(trained, Share(indices=tuple(range(len(batch.samples))), live=True))
        before = policy(micro)
        found, mask = observed(policy, batch, (FIRST, LAST))
        for values, layer in zip(found, (0, 1), strict=True):
            assert_equal(values, mask, eager(model_path, batch, layer))
        assert all(torch.equal(*pair) for pair in zip(before, policy(micro), strict=True))


def test_a_sliding_window_is_looked_through(build_model, make_batch, tmp_path):
    """In the padded layout, where such a model is evaluated: what is out of the window is neither seen nor counted."""
    path = build_model(tmp_path, "mistral", sliding_window=3)
    batch = make_batch(groups=2)
    policy = policy_of(path, "auto")
    assert not policy.forest_layout
    (found,), mask = observed(policy, batch, (MIDDLE,))
    assert_equal(found, mask, eager(path, batch, 1, window=3))


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("gemma2", {"attn_logit_softcapping": 5.0, "final_logit_softcapping": None, "head_dim": 8}),
        ("lfm2", {"layer_types": ["full_attention", "conv"], "block_multiple_of": 8}),
    ],
)
def test_attention_that_cannot_be_seen_is_refused(architecture, changes, build_model, tmp_path):
    """Scores that are capped, and layers that do not attend at all."""
    policy = policy_of(build_model(tmp_path, architecture, **changes), "auto")
    with pytest.raises(ModelError, match="cannot be observed"):
        policy.observe((MIDDLE,))


@pytest.mark.parametrize(("layer", "layers", "index"), [(0.0, 5, 0), (0.5, 5, 2), (0.5, 28, 14), (1.0, 5, 4)])
def test_the_depth_is_a_fraction(layer, layers, index):
    assert AttentionEntropy(layer=layer).index(layers) == index


def test_a_depth_outside_the_model_is_refused():
    with pytest.raises(ValueError, match="AttentionEntropy.layer"):
        AttentionEntropy(layer=1.1)


def test_only_the_training_forward_looks(model_path, make_batch, free_port, monkeypatch):
    """Neither the reference, nor the pass for lp_old, nor a learner whose algorithm does not want it."""
    calls = []
    monkeypatch.setattr(
        attention_entropy.Watch, "fill", lambda self, module, found: calls.append(self.found.update({1: found}))
    )

    def trained(**changes) -> int:
        pieces = {"advantage": GroupMean(), "surrogate": Clipped(), "aggregate": TokenMean()} | changes
        config = LearnerConfig(minibatches=2, micro_batch_tokens=10_000, mismatch_kl_limit=1e9)
        worker = LearnerWorker(model_path, config, Objective(**pieces), 0, 1, "127.0.0.1", free_port, 0, 10)
        calls.clear()
        worker.train(make_batch())
        return len(calls)

    kl = {"kl": ReferenceKl()}
    assert trained(regularisers=kl) == 0
    assert trained(regularisers=kl, weights={"attention": LowToHigh()}) == 2  # one for each minibatch
