"""The drafter's layer, its training and its files, with a policy of a few thousand parameters."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from learner.drafter.chains import Ends, Reading, Unrolled
from learner.drafter.files import (
    DRAFTER_FILE,
    INDEX,
    PREFIX,
    carry_drafter,
    check_draftable,
    save_with_drafter,
    tensors_of,
)
from learner.drafter.layer import MtpLayer
from learner.drafter.losses import LOSSES, Chains
from learner.drafter.rule import DraftRule
from learner.drafter.train import DrafterTraining, OwnSample, judged, train_drafter
from learner.errors import BatchError, ModelError

DRAFTS = 3


@pytest.fixture
def policy(model_path):
    return AutoModelForCausalLM.from_pretrained(model_path).eval()


@torch.no_grad()
def own_samples(policy, count: int, length: int = 12) -> list[OwnSample]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 61, (count, 4), generator=generator)
    for _ in range(length):
        p = policy(input_ids=ids).logits[:, -1].softmax(-1)
        ids = torch.cat([ids, torch.multinomial(p, 1, generator=generator)], 1)
    return [own(row[:4], row[4:]) for row in ids.tolist()]


def own(prompt: list[int], response: list[int]) -> OwnSample:
    return OwnSample(prompt_ids=prompt, response_ids=response, temperatures=np.ones(len(response), np.float32))


def chains_of(policy, layer: MtpLayer, samples: list[OwnSample]) -> Chains:
    unrolled = Unrolled(Reading.of(policy, samples), layer, Ends.of(policy), DraftRule(), DRAFTS)
    return unrolled.chains(unrolled.outputs, slice(None))


def one_chain(policy, layer: MtpLayer, ids: list[int], start: int) -> list[torch.Tensor]:
    """Drafts of the chain that starts at `start`, the way an engine runs it: one token at a time, with a cache of keys.

    Attention written out, in float64.
    """
    layer, block = layer.double(), layer.block.double()
    policy = policy.double()
    attention, width = block.self_attn, block.self_attn.head_dim
    groups = policy.config.num_attention_heads // policy.config.num_key_value_heads
    caught = []
    hook = policy.model.norm.register_forward_pre_hook(lambda _, arguments: caught.append(arguments[0][0]))
    policy(input_ids=torch.tensor([ids]))
    hook.remove()
    cos, sin = policy.model.rotary_emb(caught[0], torch.arange(len(ids))[None])
    keys, values, found = [], [], []

    def turned(x: torch.Tensor, at: int) -> torch.Tensor:
        half = torch.cat([-x[:, width // 2 :], x[:, : width // 2]], -1)
        return x * cos[0, at] + half * sin[0, at]

    def step(hidden: torch.Tensor, token: int, at: int) -> torch.Tensor:
        embedded = policy.model.embed_tokens.weight[token] * (at > 0)
        mixed = layer.input_proj(torch.cat([layer.hidden_layernorm(hidden), layer.token_layernorm(embedded)]))
        x = block.input_layernorm(mixed)
        query = turned(attention.q_proj(x).view(-1, width), at)
        keys.append(turned(attention.k_proj(x).view(-1, width), at))
        values.append(attention.v_proj(x).view(-1, width))
        heads = []
        for head, q in enumerate(query):
            weights = (torch.stack([key[head // groups] for key in keys]) @ q / width**0.5).softmax(0)
            heads.append(weights @ torch.stack([one[head // groups] for one in values]))
        mixed = mixed + attention.o_proj(torch.cat(heads))
        return layer.final_layernorm(mixed + block.mlp(block.post_attention_layernorm(mixed)))

    for at in range(start + 1):
        out = step(caught[0][at], ids[at + 1], at)
    for draft in range(DRAFTS):
        found.append(policy.lm_head(out))
        if start + draft + 2 < len(ids):
            out = step(out, ids[start + draft + 2], start + draft + 1)
    return found


@torch.no_grad()
def test_the_unrolled_layer_is_what_an_engine_runs(policy):
    """Logits of all drafts of two chains agree with the token-by-token run, in samples of different lengths."""
    layer = MtpLayer.like_last_layer(policy)
    for parameter in layer.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    sample, short = own_samples(policy, 1)[0], own([5, 6], [7, 8, 9])
    chains = chains_of(policy, layer, [short, sample])
    of_short = 2  # drafts for its second and third token start at its last prompt token and one after
    ids = [*sample.prompt_ids, *sample.response_ids]
    for chain in (0, 4):
        slow = one_chain(policy, layer, ids, 3 + chain)
        for draft in range(DRAFTS):
            assert torch.allclose(chains.logits[draft, of_short + chain], slow[draft].float(), atol=1e-4)
            expected = policy(input_ids=torch.tensor([ids[: 3 + chain + draft + 2]])).logits[0, -1].softmax(-1)
            assert torch.allclose(chains.p[draft, of_short + chain], expected.float(), atol=1e-4)
            assert chains.tokens[draft, of_short + chain] == ids[3 + chain + draft + 2]


def test_chains_start_where_drafts_are_made(policy):
    """A response of n tokens: the first comes with the prompt, so n - 1 chains, whose drafts end with the response."""
    chains = chains_of(policy, MtpLayer.like_last_layer(policy), own_samples(policy, 2, length=5))
    assert chains.counted.sum(1).tolist() == [2 * 4, 2 * 3, 2 * 2]


def test_training_raises_the_acceptance_and_leaves_the_policy_alone(policy):
    """Sixty steps; no weight of the policy moves or gets a gradient."""
    before = {name: one.clone() for name, one in policy.state_dict().items()}
    samples = own_samples(policy, 400)
    untrained = judged(
        policy, MtpLayer.like_last_layer(policy), samples[:20], LOSSES["kl"], DraftRule(), DRAFTS
    ).acceptance
    training = DrafterTraining(drafts=DRAFTS, steps=60, warmup_steps=40, batch=32, lr=5e-3)
    _, found = train_drafter(policy, samples, training)
    assert len(found) == DRAFTS
    assert min(found) > max(untrained) + 0.05
    assert all(torch.equal(one, before[name]) for name, one in policy.state_dict().items())
    assert all(parameter.grad is None for parameter in policy.parameters())


def test_samples_that_nothing_can_be_drafted_in_are_refused(policy):
    """One-token responses."""
    with pytest.raises(BatchError, match="responses of two tokens and more, got 0 among 3"):
        train_drafter(policy, [own([3], [4])] * 3, DrafterTraining(steps=1, warmup_steps=0))


def test_the_layer_lies_beside_the_weights(policy, model_path, tmp_path):
    """MiMo's names, a config that names the layer, the policy's file untouched; and a checkpoint can take it along."""
    layer = MtpLayer.like_last_layer(policy)
    save_with_drafter(model_path, tensors_of(layer, torch.float32), tmp_path)
    tensors = load_file(tmp_path / DRAFTER_FILE)
    assert PREFIX + "input_proj.weight" in tensors
    assert PREFIX + "self_attn.q_proj.bias" in tensors
    assert torch.equal(tensors[PREFIX + "mlp.down_proj.weight"], policy.model.layers[-1].mlp.down_proj.weight)
    shape = json.loads((tmp_path / "config.json").read_text())
    assert (shape["architectures"], shape["num_nextn_predict_layers"]) == (["MiMoForCausalLM"], 1)
    assert (tmp_path / "model.safetensors").read_bytes() == (model_path / "model.safetensors").read_bytes()
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text((model_path / "config.json").read_text())
    (checkpoint / INDEX).write_text('{"weight_map": {"lm_head.weight": "model-1.safetensors"}}')
    carry_drafter(tmp_path, checkpoint)
    assert json.loads((checkpoint / "config.json").read_text())["architectures"] == ["MiMoForCausalLM"]
    assert (checkpoint / DRAFTER_FILE).exists()
    named = json.loads((checkpoint / INDEX).read_text())["weight_map"]
    assert named == {"lm_head.weight": "model-1.safetensors"} | dict.fromkeys(tensors, DRAFTER_FILE)


def test_a_policy_of_another_kind_is_refused(tmp_path):
    """One sentence, before anything is sampled."""
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ModelError, match="policies of model_type qwen2, got llama"):
        check_draftable(tmp_path)
