"""Small models, batches of known tokens, and the slow plain-PyTorch learner everything is measured against."""

import dataclasses
import random
import socket
import string
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from learner.messages import HeadActions, KeptTokens, TrainBatch, TrainSample

VOCABULARY = 61
LETTERS = "\\{}" + string.ascii_letters + string.digits[:6]  # of a token each
TOKENIZER = PreTrainedTokenizerFast(
    tokenizer_object=Tokenizer(WordLevel({letter: token for token, letter in enumerate(LETTERS)}, unk_token="a"))
)
TOKENIZER.backend_tokenizer.decoder = Fuse()  # without blanks between tokens


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
    TOKENIZER.save_pretrained(folder)
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


def _truncated(batch: TrainBatch, seed=0) -> TrainBatch:
    """Every token drawn from at most 8 of the vocabulary, or from all of it (count 0)."""
    rng = np.random.default_rng(seed)
    samples = []
    for sample in batch.samples:
        listed = []
        for token in sample.response_ids:
            others = rng.choice(VOCABULARY, rng.integers(0, 8), replace=False)
            listed.append(np.unique([token, *others]) if rng.random() < 0.8 else np.empty(0, int))
        kept = KeptTokens(
            ids=np.concatenate(listed).astype(np.int32), counts=np.array([len(ids) for ids in listed], np.int32)
        )
        samples.append(dataclasses.replace(sample, kept=kept))
    return dataclasses.replace(batch, samples=tuple(samples))


def _with_context(batch: TrainBatch, seed=0) -> TrainBatch:
    """Some tokens are not the policy's: drawn greedily by something else, which recorded nothing that can be used.

    All tokens of the second sample are of that kind.
    """
    rng = np.random.default_rng(seed)
    samples = []
    for index, sample in enumerate(batch.samples):
        trained = rng.random(len(sample.response_ids)) < (0.0 if index == 1 else 0.6)
        samples.append(
            dataclasses.replace(
                sample,
                trained=trained,
                temperatures=np.where(trained, sample.temperatures, 0.0).astype(np.float32),
                sampler_logprobs=np.where(trained, sample.sampler_logprobs, np.nan).astype(np.float32),
                entropies=np.where(trained, sample.entropies, np.nan).astype(np.float32),
                versions=np.where(trained, sample.versions, -99).astype(np.int32),
            )
        )
    return dataclasses.replace(batch, samples=tuple(samples))


def _with_actions(batch: TrainBatch, seed=0) -> TrainBatch:
    """The temperatures of the batch as if a head had chosen them: some changed, some stayed."""
    rng = np.random.default_rng(seed)
    samples = []
    for sample in batch.samples:
        count = len(sample.response_ids)
        actions = HeadActions(changes=rng.random(count) < 0.4, logprobs=rng.normal(-1.0, 0.3, count).astype(np.float32))
        samples.append(dataclasses.replace(sample, head=actions))
    return dataclasses.replace(batch, samples=tuple(samples))


def _with_feedback(batch: TrainBatch, seed=0) -> TrainBatch:
    """Most samples have a longer prompt for the teacher, which begins in its own way."""
    rng = np.random.default_rng(seed)
    samples = []
    for sample in batch.samples:
        told = np.concatenate([rng.integers(0, VOCABULARY, 3), sample.prompt_ids]).astype(np.int32)
        samples.append(dataclasses.replace(sample, teacher_prompt_ids=told if rng.random() < 0.7 else None))
    return dataclasses.replace(batch, samples=tuple(samples))


# How the tokens of a batch were drawn: by the policy from everything, from what truncation left, not by the policy.
DRAWS = {
    "plain": lambda batch: batch,
    "truncated": _truncated,
    "context": _with_context,
    "truncated context": lambda batch: _with_context(_truncated(batch)),
}


@pytest.fixture(params=DRAWS)
def drawn(request):
    """(batch) -> the batch as if its tokens had been drawn in one of several ways."""
    return DRAWS[request.param]


@pytest.fixture(scope="session")
def truncated():
    return _truncated


@pytest.fixture(scope="session")
def with_context():
    return _with_context


@pytest.fixture(scope="session")
def with_actions():
    return _with_actions


@pytest.fixture(scope="session")
def with_feedback():
    return _with_feedback


@pytest.fixture(scope="session")
def make_sample():
    return _make_sample


@pytest.fixture(scope="session")
def make_batch():
    return _make_batch


PORTS = range(20_000, 32_000)  # below those the kernel hands out by itself, to anybody, while a rank is starting


def _free_port() -> int:
    while True:
        port = random.SystemRandom().choice(PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


@pytest.fixture
def free_port() -> int:
    return _free_port()


@pytest.fixture(scope="session")
def new_port():
    """() -> a port nobody listens on."""
    return _free_port


def trained_places(sample: TrainSample) -> list[int]:
    return [place for place in range(len(sample.response_ids)) if sample.trained is None or sample.trained[place]]


class PlainLearner:
    """DAPO with truncated importance sampling as one would first write it: one sequence at a time, nothing shared."""

    def __init__(self, path, dtype=torch.float64, lr=1e-3, max_grad_norm=1.0):
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation="eager").eval()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.0)
        self.max_grad_norm = max_grad_norm

    def logprobs(self, sample: TrainSample):
        """Of each trained token: log-probability at the recorded temperature among the kept ones, entropy at T = 1."""
        ids = torch.tensor([[*sample.prompt_ids, *sample.response_ids]], dtype=torch.int64)
        logits = self.model(input_ids=ids).logits[0, len(sample.prompt_ids) - 1 : -1]
        chosen = []
        for place in trained_places(sample):
            tempered = logits[place] / float(sample.temperatures[place])
            kept = range(VOCABULARY)
            if sample.kept is not None and sample.kept.counts[place]:
                start = sample.kept.counts[:place].sum()
                kept = sample.kept.ids[start : start + sample.kept.counts[place]].tolist()
            chosen.append(tempered[sample.response_ids[place]] - tempered[list(kept)].logsumexp(0))
        logprobs = logits[trained_places(sample)].log_softmax(-1)
        return torch.stack(chosen), -(logprobs.exp() * logprobs).sum(-1)

    def loss(self, batch: TrainBatch, cap=2.0):
        total, tokens = 0.0, 0
        for group in sorted({sample.group for sample in batch.samples}):
            members = [s for s in batch.samples if s.group == group and trained_places(s)]
            rewards = torch.tensor([sample.reward for sample in members], dtype=torch.float64)
            if not members or rewards.max() == rewards.min():
                continue
            for sample, advantage in zip(members, (rewards - rewards.mean()) / (rewards.std() + 1e-6), strict=True):
                lp, _ = self.logprobs(sample)
                sampled = torch.as_tensor(sample.sampler_logprobs[trained_places(sample)], dtype=lp.dtype)
                weight = (lp.detach() - sampled).exp().clamp(max=cap)
                total = total - (weight * advantage * (lp - lp.detach()).exp()).sum()
                tokens += len(lp)
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
