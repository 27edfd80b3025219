"""Real engines for tests: a worker in a Ray actor, and what transformers says about the tokens it drew."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import xxhash
from transformers import Qwen2ForCausalLM

from orchestration.on_ray.actor import Service
from orchestration.services import whole_group
from rollout.config import RolloutConfig, SpeculativeConfig
from rollout.draw.distribution import entropy, point_mass_, softmax_with_entropy, temper
from rollout.draw.temperature import Fixed, TemperaturePolicy
from rollout.draw.truncation import Truncation, TruncationRows, truncate
from rollout.messages import GroupRequest, Rollout
from rollout.strategies import RolloutStrategy
from rollout.vllm_adapter.start import environment
from rollout.worker import PLAIN, RolloutWorker

PROMPT = (1, 30, 40, 50, 60, 70)
DEADLINE_S = 120.0
NONE = Truncation()
EMPTY: Mapping[str, torch.Tensor] = {}


@dataclass
class Running:
    """A worker in its own Ray actor, and the policy it was started with."""

    worker: Service
    policy: Qwen2ForCausalLM
    folder: Path
    wait: Callable[[Any], Any]

    def generate(self, *requests: GroupRequest) -> list[list[Rollout]]:
        async def all_of() -> list[list[Rollout]]:
            return await asyncio.gather(*(self.group(request) for request in requests))

        return self.wait(all_of())

    @property
    def version(self) -> int:
        """Of the weights that the engine draws with."""
        [[rollout]] = self.generate(ask("which version", Fixed(), 1, 1))
        return rollout.spans[-1].version

    async def group(self, request: GroupRequest) -> list[Rollout]:
        """All rollouts of one group, in the order of their indices."""
        return await whole_group(self.stream(request))

    async def stream(self, request: GroupRequest) -> AsyncIterator[Rollout]:
        """Its rollouts as they come out of the actor."""
        async with aclosing(self.worker.stream("generate", request, deadline_s=DEADLINE_S)) as answers:
            async for rollouts in answers:
                for rollout in rollouts:
                    yield rollout


@contextmanager
def started(
    folder: Path,
    policy: Qwen2ForCausalLM,
    config: RolloutConfig,
    drafting: SpeculativeConfig,
    name: str,
    strategy: RolloutStrategy = PLAIN,
    factory: type[RolloutWorker] = RolloutWorker,
) -> Iterator[Running]:
    """A worker serving the model in `folder`, which `policy` is; it is killed at the end."""
    loop = asyncio.new_event_loop()
    worker = loop.run_until_complete(
        Service.start(
            name,
            folder / "worker.log",
            factory,
            ("rollout-0", config, drafting, folder, 0, strategy),
            cpus=0,
            env=environment(config),
            deadline_s=DEADLINE_S,
        )
    )
    try:
        loop.run_until_complete(worker.call("start", deadline_s=DEADLINE_S))
        yield Running(worker, policy, folder, loop.run_until_complete)
    finally:
        worker.kill()
        loop.close()


def ask(
    name: str, temperature: TemperaturePolicy, n: int = 8, max_tokens: int = 24, truncation: Truncation = NONE
) -> GroupRequest:
    return GroupRequest(
        group_id=name, prompt_ids=PROMPT, n=n, max_tokens=max_tokens, temperature=temperature, truncation=truncation
    )


@torch.no_grad()
def recompute(policy: Qwen2ForCausalLM, rollout: Rollout) -> torch.Tensor:
    """Logits [response tokens, vocab] by transformers, from the same weights."""
    ids = torch.tensor([[*rollout.prompt_ids, *rollout.response_ids.tolist()]])
    return policy(ids).logits[0, len(rollout.prompt_ids) - 1 : -1].float()


def drawn_from(logits: torch.Tensor, request: GroupRequest) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Probabilities [tokens, vocab], entropies, temperatures that the request asks for at these logits."""
    entropies = softmax_with_entropy(logits)[1]
    temperatures = request.temperature(entropies)
    rows = TruncationRows.of([request.truncation] * len(logits))
    kept = truncate(temper(logits, temperatures), rows).logits.softmax(-1)
    return point_mass_(kept, temperatures == 0.0), entropies, temperatures


def recorded_errors(policy: Qwen2ForCausalLM, rollout: Rollout, request: GroupRequest) -> list[float]:
    """Largest |recorded - recomputed| of logprob, entropy and temperature."""
    drawn, entropies, temperatures = drawn_from(recompute(policy, rollout), request)
    logprobs = drawn[torch.arange(len(drawn)), torch.tensor(rollout.response_ids).long()].log()
    pairs = (
        (logprobs, rollout.sampler_logprobs),
        (entropies, rollout.entropies),
        (temperatures, rollout.temperatures),
    )
    return [float(np.abs(computed.numpy() - recorded).max()) for computed, recorded in pairs]


def payload_of(policy: Qwen2ForCausalLM, beside: Mapping[str, torch.Tensor] = EMPTY) -> np.ndarray:
    """As the learner sends it: a tied head also under its own name. `beside`: what transformers does not load."""
    tensors = {name: tensor.clone().contiguous() for name, tensor in {**policy.state_dict(), **beside}.items()}
    return np.frombuffer(safetensors.torch.save(tensors), np.uint8)


@torch.no_grad()
def update_of(policy: Qwen2ForCausalLM, version: int, beside: Mapping[str, torch.Tensor] = EMPTY) -> tuple:
    payload = payload_of(policy, beside)
    probe = (1, 5, 9, 13)
    found = entropy(policy(torch.tensor([probe])).logits[0, -1].float()).item()
    return version, xxhash.xxh3_128_hexdigest(payload), probe, found, payload


def update(running: Running, arguments: tuple):
    return running.worker.call("update_weights", *arguments, deadline_s=DEADLINE_S)
