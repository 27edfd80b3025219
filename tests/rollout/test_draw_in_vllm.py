"""The draw inside a real vLLM engine: it records what transformers computes, and draws what it records."""

import asyncio
import math
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import xxhash
from transformers import Qwen2ForCausalLM

from orchestration.errors import WorkerFailure
from rollout.config import RolloutConfig, SpeculativeConfig
from rollout.draw.distribution import entropy, tempered_logprob
from rollout.draw.temperature import EntropyLinear, Fixed
from rollout.errors import RequestError, WeightUpdateError
from tests.models import random_policy
from tests.rollout.engines import DEADLINE_S, Running, ask, recompute, recorded_errors, started, update, update_of

ADAPTIVE = EntropyLinear(low=0.5, high=1.6, entropy_low=2.5, entropy_high=5.0)


@pytest.fixture(scope="module", params=["in_process", pytest.param("async_llm", marks=pytest.mark.slow)])
def running(request, ray_cluster, tmp_path_factory) -> Running:
    folder: Path = tmp_path_factory.mktemp("policy")
    policy = random_policy(folder, tied=True)
    config = RolloutConfig(engine=request.param, max_model_len=512, max_num_seqs=64, kv_cache_gib=0.1)
    with started(folder, policy, config, SpeculativeConfig(), f"rollout-{request.param}") as worker:
        yield worker


def test_the_record_is_what_transformers_computes(running):
    """Logprob, entropy and temperature of every token agree to 1e-4, for four policies mixed in one batch."""
    policies = {
        "adaptive": ADAPTIVE,
        "cooling": EntropyLinear(low=1.5, high=0.6, entropy_low=1.0, entropy_high=5.0),
        "plain": Fixed(),
        "hot": Fixed(temperature=1.7),
    }
    requests = [ask(name, temperature) for name, temperature in policies.items()]
    groups = running.generate(*requests)
    spread = np.concatenate([rollout.temperatures for rollout in groups[0]])
    assert spread.max() - spread.min() > 0.3, "the adaptive policy never adapted: this test would prove nothing"
    for group, request in zip(groups, requests, strict=True):
        for rollout in group:
            assert max(recorded_errors(running.policy, rollout, request)) < 1e-4


def test_greedy_is_the_most_likely_token_and_a_point_mass(running):
    """At temperature 0 the token is the argmax, and the record says T = 0 and logprob 0."""
    [[rollout]] = running.generate(ask("greedy", Fixed(temperature=0.0), n=1))
    assert rollout.response_ids.tolist() == recompute(running.policy, rollout).argmax(-1).tolist()
    assert not rollout.temperatures.any()
    assert not rollout.sampler_logprobs.any()


def test_tokens_are_drawn_from_the_recorded_distribution(running):
    """First tokens of 4 000 draws fit softmax(logits / T) by chi-square, and do not fit the same at T = 1.

    At N = 4 000 and about 60 cells, a total-variation shift of 9 % spread evenly over the cells, is seen with power
    above 0.99 (noncentral chi-square: noncentrality 130, threshold 4 standard deviations). The shift from T to 1 is
    larger than that here, which the second half shows.
    """
    draws = [
        rollout
        for group in running.generate(*(ask(f"fit{i}", ADAPTIVE, 80, 1) for i in range(50)))
        for rollout in group
    ]
    logits = recompute(running.policy, draws[0])[0]
    temperature = ADAPTIVE(entropy(logits).unsqueeze(0))
    counts = torch.bincount(torch.tensor([int(rollout.response_ids[0]) for rollout in draws]), minlength=len(logits))
    assert chi_square_z(counts, (logits / temperature).softmax(-1)) < 4.0
    assert chi_square_z(counts, logits.softmax(-1)) > 10.0


def chi_square_z(counts: torch.Tensor, probabilities: torch.Tensor) -> float:
    """How many standard deviations the chi-square statistic lies above its mean; cells below 5 expected are pooled."""
    expected = probabilities.double() * counts.sum()
    large = expected >= 5
    observed = torch.cat([counts[large].double(), counts[~large].sum().double().unsqueeze(0)])
    expected = torch.cat([expected[large], expected[~large].sum().unsqueeze(0)])
    statistic = ((observed - expected) ** 2 / expected).sum().item()
    freedom = len(observed) - 1
    return (statistic - freedom) / math.sqrt(2 * freedom)


def test_a_prompt_that_does_not_fit_is_refused(running):
    """The sentence says what is needed, what there is and which knob to turn."""
    with pytest.raises(WorkerFailure, match=r"needs 1006 tokens .* raise rollout.max_model_len") as failure:
        running.generate(ask("long", Fixed(), max_tokens=1000))
    assert isinstance(failure.value.__cause__, RequestError)


@torch.no_grad()
def perturb(policy: Qwen2ForCausalLM, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in policy.parameters():
        parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))


def test_weights_change_in_flight_and_every_token_says_which_drew_it(running):
    """Requests in flight go on; each span's logprobs are those of its own version's weights."""
    old = running.policy
    new = Qwen2ForCausalLM(old.config).eval()
    new.load_state_dict(old.state_dict())
    perturb(new, seed=5)

    async def update_under_load():
        calls = [
            asyncio.create_task(running.worker.call("generate", ask(f"w{i}", ADAPTIVE, 8, 480), deadline_s=DEADLINE_S))
            for i in range(4)
        ]
        await asyncio.sleep(0.1)
        confirmation = await update(running, update_of(new, 1))
        return confirmation, await asyncio.gather(*calls)

    confirmation, groups = running.wait(update_under_load())
    running.policy = new  # what the engine draws with from here on
    assert (confirmation.version, confirmation.probe_error < 1e-4) == (1, True)
    both = [rollout for group in groups for rollout in group if [span.version for span in rollout.spans] == [0, 1]]
    assert both, "no rollout was in flight during the update: this test would prove nothing"
    for rollout in both[:6]:
        border = rollout.spans[0].end
        tokens = torch.tensor(rollout.response_ids).long()
        for policy, part in ((old, slice(0, border)), (new, slice(border, None))):
            logits = recompute(policy, rollout)
            logprobs = tempered_logprob(logits, tokens, ADAPTIVE(entropy(logits))).numpy()
            assert np.abs(logprobs[part] - rollout.sampler_logprobs[part]).max() < 1e-4


def test_damaged_weights_are_refused(running):
    """A payload that does not match its checksum never reaches the engine."""
    version, _, *rest = update_of(running.policy, 7)
    with pytest.raises(WorkerFailure, match="arrived damaged") as failure:
        running.wait(update(running, (version, "0" * 32, *rest)))
    assert isinstance(failure.value.__cause__, WeightUpdateError)


def test_weights_that_do_not_take_effect_are_noticed(running):
    """A tied head pushed under one name only passes the checksum and is caught by the probe."""
    partly = Qwen2ForCausalLM(running.policy.config).eval()
    partly.load_state_dict(running.policy.state_dict())
    perturb(partly, seed=6)
    version, _, probe, found, _ = update_of(partly, 8)
    tensors = {name: tensor.clone() for name, tensor in partly.state_dict().items() if name != "lm_head.weight"}
    payload = np.frombuffer(safetensors.torch.save(tensors), np.uint8)
    with pytest.raises(WorkerFailure, match="took weights v8 but does not draw with them"):
        running.wait(update(running, (version, xxhash.xxh3_128_hexdigest(payload), probe, found, payload)))
