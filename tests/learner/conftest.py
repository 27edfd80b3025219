"""Small models, batches of known tokens, and the slow plain-PyTorch learner everything is measured against."""

import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from learner.messages import TrainBatch, TrainSample

VOCABULARY = 61


def _build_model(folder: Path, architecture: str = "qwen2", **changes) -> Path:
    torch.manual_seed(0)
    settings = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        "initializer_range": 0.3,  # peaked distributions: a mistake must show
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    } | changes
    AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **settings)).save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")  # stands for the files an export has to carry along
    return folder


@pytest.fixture(scope="session")
def build_model():
    """(folder, architecture, **settings) -> the folder, now with a tiny random model."""
    return _build_model


@pytest.fixture(scope="session")
def model_path(tmp_path_factory) -> Path:
    return _build_model(tmp_path_factory.mktemp("model"))


def _make_sample(rng, group, prompt, response, reward, temperature=None, version=0) -> TrainSample:
    count = len(response)
    if temperature is None:
        temperature = rng.choice([0.5, 1.0, 1.5], count)
    return TrainSample(
        group=group,
        prompt_ids=np.asarray(prompt, np.int32),
        response_ids=np.asarray(response, np.int32),
        sampler_logprobs=rng.normal(-2.0, 0.3, count).astype(np.float32),
        temperatures=np.broadcast_to(temperature, count).astype(np.float32),
        entropies=rng.uniform(0.0, 3.0, count).astype(np.float32),
        versions=np.full(count, version, np.int32),
        reward=float(reward),
        unshaped=float(reward),
    )


def _make_batch(seed=0, step=0, groups=4, size=4, rewards=None, temperature=None) -> TrainBatch:
    """Groups whose responses share beginnings, some of them identical, of 1 to 12 tokens."""
    rng = np.random.default_rng(seed)
    samples = []
    for group in range(groups):
        prompt = rng.integers(0, VOCABULARY, rng.integers(1, 6))
        stem = rng.integers(0, VOCABULARY, 4)
        for member in range(size):
            fresh = rng.integers(0, VOCABULARY, rng.integers(0, 9))
            response = np.concatenate([stem[: rng.integers(1, 5)], fresh]) if member else stem
            reward = rng.integers(0, 2) if rewards is None else rewards[group * size + member]
            samples.append(_make_sample(rng, group, prompt, response, reward, temperature, step))
        samples[-1] = samples[-size]  # a policy repeats itself
    return TrainBatch(step=step, samples=tuple(samples))


@pytest.fixture(scope="session")
def make_sample():
    return _make_sample


@pytest.fixture(scope="session")
def make_batch():
    return _make_batch


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class PlainLearner:
    """DAPO with truncated importance sampling as one would first write it: one sequence at a time, nothing shared."""

    def __init__(self, path, dtype=torch.float64, lr=1e-3, max_grad_norm=1.0):
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation="eager").eval()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.0)
        self.max_grad_norm = max_grad_norm

    def logprobs(self, sample: TrainSample):
        """Log-probability at the recorded temperature and entropy at T = 1, one per response token."""
        ids = torch.tensor([[*sample.prompt_ids, *sample.response_ids]], dtype=torch.int64)
        logits = self.model(input_ids=ids).logits[0, len(sample.prompt_ids) - 1 : -1]
        temperature = torch.as_tensor(sample.temperatures, dtype=logits.dtype)[:, None]
        chosen = (logits / temperature).log_softmax(-1)[range(len(sample.response_ids)), sample.response_ids.tolist()]
        logprobs = logits.log_softmax(-1)
        return chosen, -(logprobs.exp() * logprobs).sum(-1)

    def loss(self, batch: TrainBatch, cap=2.0):
        total, tokens = 0.0, 0
        for group in sorted({sample.group for sample in batch.samples}):
            members = [sample for sample in batch.samples if sample.group == group]
            rewards = torch.tensor([sample.reward for sample in members], dtype=torch.float64)
            if rewards.max() == rewards.min():
                continue
            for sample, advantage in zip(members, (rewards - rewards.mean()) / (rewards.std() + 1e-6), strict=True):
                lp, _ = self.logprobs(sample)
                sampled = torch.as_tensor(sample.sampler_logprobs, dtype=lp.dtype)
                weight = (lp.detach() - sampled).exp().clamp(max=cap)
                total = total - (weight * advantage * (lp - lp.detach()).exp()).sum()
                tokens += len(sample.response_ids)
        return total / tokens

    def step(self, batch: TrainBatch):
        """Loss and gradient norm before clipping."""
        self.optimizer.zero_grad()
        loss = self.loss(batch)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.max_grad_norm)
        self.optimizer.step()
        return loss.item(), norm.item()


@pytest.fixture(scope="session")
def plain_learner():
    return PlainLearner
