"""What the learner's benchmarks train on: models with random weights, batches of samples, and the step as one writes it
first. No command; used by scripts/bench_learner*.py.
"""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from learner.batch import trained_part
from learner.messages import TrainBatch, TrainSample
from learner.objective import Objective
from learner.objective.advantage import GroupMean
from learner.objective.aggregate import TokenMean
from learner.objective.surrogate import Clipped

TINY = {
    "model_type": "qwen2",
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
SMOLLM2 = {
    "model_type": "llama",
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}
OBJECTIVE = Objective(advantage=GroupMean(), surrogate=Clipped(eps_hi=0.28), aggregate=TokenMean())


def sample(group: int, prompt: np.ndarray, response: np.ndarray, reward: float, **extra: object) -> TrainSample:
    """Drawn at T = 1; the recorded log-probabilities are made up, which costs no time."""
    ones = np.ones(len(response), np.float32)
    return TrainSample(
        group=group,
        prompt_ids=np.asarray(prompt, np.int32),
        response_ids=np.asarray(response, np.int32),
        sampler_logprobs=-ones,
        temperatures=ones,
        entropies=ones,
        versions=np.zeros(len(response), np.int32),
        reward=reward,
        unshaped=reward,
        **extra,
    )


def batch_of_lengths(prompts: Sequence[int], responses: Sequence[Sequence[int]], vocabulary: int) -> TrainBatch:
    """Groups of random tokens: the length of each prompt, and those of its responses; every other one is right."""
    rng = np.random.default_rng(0)
    samples = []
    for group, (length, lengths) in enumerate(zip(prompts, responses, strict=True)):
        prompt = rng.integers(2, vocabulary, length)
        samples += [
            sample(group, prompt, rng.integers(2, vocabulary, count), float(member % 2))
            for member, count in enumerate(lengths)
        ]
    return TrainBatch(step=0, samples=tuple(samples))


def save_model(folder: str | Path, shape: dict[str, object]) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**shape)).save_pretrained(folder)


def quickstart_batches(count: int, groups: int, size: int) -> tuple[Path, list[TrainBatch]]:
    """The quickstart's policy as it starts, and steps of what it answers to the quickstart's tasks at T = 1.

    It is warm-started if that has not happened on this machine yet, which takes half a minute.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from orchestration.models.prompts import encode_prompt
    from orchestration.models.resolve import WarmStarted
    from orchestration.tasks.spec_to_verilog import SpecToVerilog

    tasks = SpecToVerilog()
    folder = WarmStarted().resolve(tasks)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    generator = torch.Generator().manual_seed(0)
    batches = []
    for step in range(count):
        prompts = [
            encode_prompt(tokenizer, tasks.train_task(step * groups + index, seed=0), chat=False)
            for index in range(groups)
        ]
        samples = []
        for group, prompt in enumerate(prompts):
            drawn = draw(model, prompt, size, tasks.max_tokens, tokenizer.eos_token_id, generator)
            samples += [
                sample(group, np.array(prompt), response, float(member % 2)) for member, response in enumerate(drawn)
            ]
        random.Random(step).shuffle(samples)
        batches.append(TrainBatch(step=step, samples=tuple(sorted(samples, key=lambda one: one.group))))
    return folder, batches


@torch.no_grad()
def draw(model, prompt: Sequence[int], size: int, limit: int, eos: int, generator: torch.Generator) -> list[np.ndarray]:
    """Responses to one prompt at T = 1, each up to and with its end token."""
    ids, cache = torch.tensor([prompt] * size), None
    drawn: list[Tensor] = []
    for _ in range(limit):
        out = model(input_ids=ids, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        ids = torch.multinomial(out.logits[:, -1].softmax(-1), 1, generator=generator)
        drawn.append(ids)
    responses = torch.cat(drawn, 1).numpy()
    return [row[: np.argmax(row == eos) + 1] if (row == eos).any() else row for row in responses]


def padded_tensors(batch: TrainBatch, objective: Objective) -> dict[str, Tensor]:
    """Right-padded rows [sample, position]: prompts at the right of their part, so that responses begin together.

    prompt_ids, prompt_mask, completion_ids, completion_mask int64; advantages float32 [sample].
    """
    trained = trained_part(batch, objective)
    prompts = [one.prompt_ids for one in trained.samples]
    responses = [one.response_ids for one in trained.samples]

    def padded(rows: list[np.ndarray], left: bool) -> tuple[Tensor, Tensor]:
        width = max(map(len, rows))
        ids = torch.zeros(len(rows), width, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for target, filled, row in zip(ids, mask, rows, strict=True):
            place = slice(width - len(row), None) if left else slice(len(row))
            target[place] = torch.from_numpy(row.astype(np.int64))
            filled[place] = 1
        return ids, mask

    prompt_ids, prompt_mask = padded(prompts, left=True)
    completion_ids, completion_mask = padded(responses, left=False)
    return {
        "prompt_ids": prompt_ids,
        "prompt_mask": prompt_mask,
        "completion_ids": completion_ids,
        "completion_mask": completion_mask,
        "advantages": torch.from_numpy(trained.advantages).float(),
    }


def padded_loss(model, tensors: dict[str, Tensor]) -> Tensor:
    """The loss as one writes it first: an attention mask, logits of every token, one log-softmax over all of them."""
    tokens = torch.cat((tensors["prompt_ids"], tensors["completion_ids"]), 1)
    attention_mask = torch.cat((tensors["prompt_mask"], tensors["completion_mask"]), 1)
    response = tensors["completion_mask"]
    logits = model(input_ids=tokens, attention_mask=attention_mask, use_cache=False).logits[:, :-1]
    logprobs = logits.float().log_softmax(-1).gather(2, tokens[:, 1:, None])[:, -response.shape[1] :, 0]
    ratio = (logprobs - logprobs.detach()).exp()
    advantages = tensors["advantages"][:, None]
    surrogate = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(0.8, 1.28))
    return (surrogate * response).sum() / response.sum()
