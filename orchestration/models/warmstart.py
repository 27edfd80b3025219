"""The tiny policy's supervised start: demonstrations -> tokenizer -> a policy that has seen the form of an answer.

    source.demonstration(rng) --> (prompt, response) --> [bos] prompt response [eos] --loss on response, eos--> folder

Deterministic: the same source, settings and seed give the same weights on one machine (a fixed number of steps on one
thread). `warm_start` only builds; `resolve.WarmStarted` keeps the result by content.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Qwen2ForCausalLM, Qwen2Tokenizer

from orchestration.models.prompts import encode_plain
from orchestration.models.tiny import TinyArchitecture
from orchestration.models.tokenizer import train_tokenizer

IGNORED = -100  # label of a position without loss

Progress = Callable[[int, int, float], None]  # (steps done, steps in all, loss in nats per token)


class Demonstrator(Protocol):
    """What a task source must also have for a policy to be started on it."""

    @property
    def boilerplate(self) -> tuple[str, ...]: ...

    def demonstration(self, rng: random.Random) -> tuple[str, str]:
        """A (prompt, response) pair whose prompt is not held out."""


@dataclass(frozen=True, kw_only=True)
class SupervisedStart:
    """How the supervised start is trained. The rate rises over `warmup` steps and then falls linearly to a tenth."""

    steps: int = 300
    batch: int = 64  # demonstrations per step, all fresh
    lr: float = 2e-3
    warmup: int = 50
    weight_decay: float = 0.01
    tokenizer_demonstrations: int = 2000  # the tokenizer is learned from
    max_vocab: int = 512
    seed: int = 0

    def lr_at(self, step: int) -> float:
        return self.lr * min(1.0, (step + 1) / self.warmup) * (1.0 - 0.9 * step / self.steps)


def warm_start(
    source: Demonstrator, folder: Path, architecture: TinyArchitecture, training: SupervisedStart, progress: Progress
) -> Path:
    """Train a tiny policy on `source`'s demonstrations and save model and tokenizer into `folder`; returns `folder`."""
    rng = random.Random(f"warm start/{training.seed}")
    texts = ["".join(source.demonstration(rng)) for _ in range(training.tokenizer_demonstrations)]
    tokenizer = train_tokenizer(texts, source.boilerplate, training.max_vocab)
    tokenizer.model_max_length = architecture.max_positions
    policy = architecture.build(tokenizer, training.seed)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the weights depend on the order of sums; so small a model needs no more
    try:
        _train(policy, tokenizer, source, rng, training, progress)
    finally:
        torch.set_num_threads(threads)
    policy.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _train(
    policy: Qwen2ForCausalLM,
    tokenizer: Qwen2Tokenizer,
    source: Demonstrator,
    rng: random.Random,
    training: SupervisedStart,
    progress: Progress,
) -> None:
    optimizer = torch.optim.AdamW(policy.parameters(), betas=(0.9, 0.98), weight_decay=training.weight_decay)
    policy.train()
    for step in range(training.steps):
        for group in optimizer.param_groups:
            group["lr"] = training.lr_at(step)
        ids, labels = _batch(tokenizer, [source.demonstration(rng) for _ in range(training.batch)])
        # Padding is on the right and attention is causal: no real token sees it, so no attention mask is needed.
        logits = policy(input_ids=ids, use_cache=False).logits  # (B, T, V)
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        progress(step + 1, training.steps, loss.item())
    policy.eval()


def _batch(tokenizer: Qwen2Tokenizer, demonstrations: Sequence[tuple[str, str]]) -> tuple[Tensor, Tensor]:
    """ids and labels, both (B, T) int64, padded on the right; prompts and padding carry no label."""
    eos = tokenizer.eos_token_id
    pairs = [
        (encode_plain(tokenizer, prompt), (*tokenizer.encode(response, add_special_tokens=False), eos))
        for prompt, response in demonstrations
    ]
    longest = max(len(prompt) + len(response) for prompt, response in pairs)
    ids = torch.full((len(pairs), longest), tokenizer.pad_token_id)
    labels = torch.full_like(ids, IGNORED)
    for row, (prompt, response) in enumerate(pairs):
        end = len(prompt) + len(response)
        ids[row, :end] = torch.tensor(prompt + response)
        labels[row, len(prompt) : end] = torch.tensor(response)
    return ids, labels
