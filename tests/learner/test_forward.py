import dataclasses

import numpy as np
import pytest
import torch

from learner.batch import Share, Trained
from learner.errors import ModelError
from learner.forward import Policy
from learner.model import load_model


def policy_of(path, layout="auto", dtype=torch.float32) -> Policy:
    return Policy(load_model(path, dtype, torch.device("cpu")), layout=layout, head_chunk_mib=1)


def evaluate(policy: Policy, samples):
    trained = Trained(samples=tuple(samples), advantages=np.zeros(len(samples)))
    with torch.no_grad():
        return policy(policy.micro_batch(trained, Share(indices=tuple(range(len(samples))), live=True)))


ARCHITECTURES = {
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "llama": {"tie_word_embeddings": False},
    "mistral": {"sliding_window": None},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "gemma3_text": {"head_dim": 8, "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]},
}
FOREST = {"qwen2", "qwen3", "llama", "mistral", "gpt2"}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logprobs_are_the_models_own_at_the_recorded_temperatures(
    architecture, build_model, make_batch, plain_learner, tmp_path
):
    """For any architecture, every token's log-probability and entropy are the model's, one sequence at a time."""
    path = build_model(tmp_path, architecture, **ARCHITECTURES[architecture])
    policy = policy_of(path)
    assert policy.forest_layout == (architecture in FOREST)
    samples = make_batch(groups=3, size=5).samples
    lp, entropy = evaluate(policy, samples)
    reference = plain_learner(path)
    with torch.no_grad():
        for row, sample in enumerate(samples):
            count = len(sample.response_ids)
            expected_lp, expected_entropy = reference.logprobs(sample)
            torch.testing.assert_close(lp[row, :count].double(), expected_lp, atol=2e-5, rtol=1e-5)
            torch.testing.assert_close(entropy[row, :count].double(), expected_entropy, atol=2e-5, rtol=1e-5)
            assert (lp[row, count:] == 0).all()


@pytest.mark.parametrize("layout", ["forest", "padded"])
def test_a_temperature_belongs_to_its_own_token_only(layout, model_path, make_batch):
    """Changing the temperature of one token changes the log-probability of that token and of no other."""
    policy = policy_of(model_path, layout)
    samples = list(make_batch(temperature=1.0).samples)
    before, entropy_before = evaluate(policy, samples)
    changed = samples[5].temperatures.copy()
    changed[2] = 0.7
    samples[5] = dataclasses.replace(samples[5], temperatures=changed)
    after, entropy_after = evaluate(policy, samples)
    moved = ((after - before).abs() > 1e-6).nonzero().tolist()
    assert moved == [[5, 2]]
    torch.testing.assert_close(entropy_after, entropy_before)


def test_shared_prefixes_are_computed_once(model_path, make_batch):
    """The number of computed tokens is the number of distinct prefixes."""
    samples = make_batch().samples
    policy = policy_of(model_path)
    trained = Trained(samples=samples, advantages=np.zeros(len(samples)))
    micro = policy.micro_batch(trained, Share(indices=tuple(range(len(samples))), live=True))
    sequences = [[*s.prompt_ids, *s.response_ids[:-1]] for s in samples]
    assert micro.tokens.shape == (1, len({tuple(s[: n + 1]) for s in sequences for n in range(len(s))}))


def test_capped_logits_are_refused(build_model, tmp_path):
    """A model whose logits are not linear in the hidden state is refused in one sentence instead of trained wrongly."""
    path = build_model(tmp_path, "gemma2", head_dim=8, final_logit_softcapping=0.5)
    with pytest.raises(ModelError, match=r"logits of Gemma2ForCausalLM are not head\(hidden state\)"):
        policy_of(path)


def test_forest_layout_is_refused_where_it_would_be_wrong(build_model, tmp_path):
    path = build_model(tmp_path, "gemma3_text", **ARCHITECTURES["gemma3_text"])
    with pytest.raises(ModelError, match="use layout=padded"):
        policy_of(path, "forest")


@pytest.mark.parametrize(("files", "message"), [({}, "has no config.json"), ({"config.json": "{}"}, "no weights")])
def test_a_folder_that_is_no_model_is_named(files, message, tmp_path):
    """A path without config or weights fails with one sentence that names the path."""
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ModelError, match=message) as caught:
        load_model(tmp_path, torch.float32, torch.device("cpu"))
    assert str(tmp_path) in str(caught.value)


def test_bfloat16_stays_near_float32(model_path, make_batch):
    samples = make_batch(temperature=1.0).samples
    exact, _ = evaluate(policy_of(model_path), samples)
    rounded, _ = evaluate(policy_of(model_path, dtype=torch.bfloat16), samples)
    assert rounded.dtype == torch.float32
    assert (exact - rounded).abs().mean() < 0.1
