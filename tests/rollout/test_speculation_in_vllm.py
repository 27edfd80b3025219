"""Speculative decoding inside a real vLLM engine: whatever drafts, tokens are drawn from what the record says."""

import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2ForCausalLM

from rollout.config import RolloutConfig, SpeculativeConfig
from rollout.draw.temperature import EntropyLinear, Fixed, LogPivot
from rollout.draw.truncation import Truncation
from tests.models import random_mtp_policy, random_policy
from tests.rollout.engines import Running, ask, recorded_errors, started, uniforms_of, update, update_of

ADAPTIVE = EntropyLinear(low=0.5, high=1.6, entropy_low=2.5, entropy_high=5.0)
PIVOT = LogPivot(pivot=1.2, rms=0.6, scale_positive=1.0, scale_negative=2.0, swing=0.5)
TOP_P = Truncation(top_p=0.8)
CELLS = 20
SLOW = pytest.mark.slow


def drafting(kind: str, folder) -> SpeculativeConfig:
    method, _, drafts = kind.partition("-")
    return SpeculativeConfig(
        method=method,
        drafts=drafts or "probabilistic",
        model=str(folder) if method == "draft_model" else None,
        ngram_min=1,
    )


@pytest.fixture(
    scope="module",
    params=[
        "mtp-probabilistic",
        "draft_model-probabilistic",
        pytest.param("mtp-greedy", marks=SLOW),
        pytest.param("draft_model-greedy", marks=SLOW),
        pytest.param("ngram-greedy", marks=SLOW),
    ],
)
def running(request, ray_cluster, tmp_path_factory) -> Running:
    folder, draft = tmp_path_factory.mktemp("policy"), tmp_path_factory.mktemp("draft")
    policy = random_mtp_policy(folder) if request.param.startswith("mtp") else random_policy(folder)
    if request.param.startswith("draft_model"):  # the policy itself, blurred: some drafts pass, some do not
        random_policy(draft)
        generator = torch.Generator().manual_seed(5)
        weights = load_file(draft / "model.safetensors")
        blurred = {name: one + 0.02 * torch.randn(one.shape, generator=generator) for name, one in weights.items()}
        save_file(blurred, draft / "model.safetensors", {"format": "pt"})
    config = RolloutConfig(max_model_len=512, max_num_seqs=64, kv_cache_gib=0.1)
    with started(folder, policy, config, drafting(request.param, draft), f"rollout-{request.param}") as worker:
        yield worker


def test_the_record_is_what_transformers_computes(running):
    """Logprob, entropy and temperature agree to 1e-4 for mixed requests, whose rows lie between each other's drafts."""
    requests = [
        ask("adaptive", ADAPTIVE),
        ask("plain", Fixed()),
        ask("hot, cut", Fixed(temperature=1.7), truncation=TOP_P),
        ask("pivot, cut", PIVOT, truncation=Truncation(top_k=20, min_p=0.02)),
        ask("greedy", Fixed(temperature=0.0)),
    ]
    groups = running.generate(*requests)
    for group, request in zip(groups, requests, strict=True):
        for rollout in group:
            assert max(recorded_errors(running.policy, rollout, request)) < 1e-4
            assert not rollout.temperatures.any() or math.isfinite(rollout.sampler_logprobs.min())


GRID = [
    pytest.param(ADAPTIVE, Truncation(), id="entropy_linear"),
    pytest.param(PIVOT, TOP_P, id="log_pivot-top_p"),
    pytest.param(Fixed(), Truncation(), id="fixed", marks=SLOW),
    pytest.param(Fixed(), TOP_P, id="fixed-top_p", marks=SLOW),
    pytest.param(ADAPTIVE, TOP_P, id="entropy_linear-top_p", marks=SLOW),
    pytest.param(PIVOT, Truncation(), id="log_pivot", marks=SLOW),
]


@pytest.mark.parametrize(("temperature", "truncation"), GRID)
def test_tokens_are_drawn_from_the_recorded_distribution(running, temperature, truncation):
    """The probability integral transform of about 40 000 tokens is uniform: chi-square over 20 cells, z < 4.

    A shift of 2 % of the mass, spread evenly over the cells, has noncentrality 40 000 * 0.04**2 = 64 against a
    threshold of 19 + 4 sqrt(38) = 44: power above 0.98. Under the null z > 4 happens about once in 5 000 tests.
    """
    request = ask("fit", temperature, n=128, max_tokens=320, truncation=truncation)
    [rollouts] = running.generate(request)
    found = uniforms_of(running.policy, rollouts, request)
    assert len(found) > 20_000
    assert uniformity_z(found) < 4.0
    assert uniformity_z(uniforms_of(running.policy, rollouts[:32], ask("raw", Fixed(temperature=0.9)))) > 10.0


def uniformity_z(values: np.ndarray) -> float:
    """How many standard deviations the chi-square statistic of the cells lies above its mean."""
    counts = np.histogram(values, CELLS, (0.0, 1.0))[0]
    expected = len(values) / CELLS
    return (((counts - expected) ** 2 / expected).sum() - (CELLS - 1)) / math.sqrt(2 * (CELLS - 1))


def test_drafts_are_accepted_and_counted(running):
    """The histogram counts every verification step, and its accepted drafts and one token a step make the response."""
    [rollouts] = running.generate(ask("count", ADAPTIVE, n=16, max_tokens=64))
    for rollout in rollouts:
        steps = sum(rollout.accepted_histogram)
        assert rollout.accepted_tokens <= rollout.drafted_tokens
        # the first token comes with the prompt; the last step may be cut at max_tokens
        assert len(rollout.response_ids) <= 1 + steps + rollout.accepted_tokens + 3
    assert sum(rollout.accepted_tokens for rollout in rollouts) > 0


def acceptance(running: Running, name: str) -> float:
    [rollouts] = running.generate(ask(name, Fixed(temperature=1.7), n=64, max_tokens=128))
    return sum(one.accepted_tokens for one in rollouts) / sum(one.drafted_tokens for one in rollouts)


def test_the_drafter_follows_the_learner(request, running):
    """A policy with its vocabulary reshuffled is as easy to draft for; new drafting layers take effect."""
    if "mtp" not in request.node.callspec.id:
        pytest.skip("only layers inside the model are updated with it")
    before = acceptance(running, "before")
    shuffled = Qwen2ForCausalLM(running.policy.config).eval()
    shuffled.load_state_dict(running.policy.state_dict())
    order = torch.randperm(shuffled.config.vocab_size, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        for matrix in (shuffled.model.embed_tokens.weight, shuffled.lm_head.weight):
            matrix.copy_(matrix[order])
    saved = load_file(running.folder / "model.safetensors")
    layers = {name: one for name, one in saved.items() if "mtp_layers" in name}
    broken = {name: torch.zeros_like(one) if "final_layernorm" in name else one for name, one in layers.items()}
    found = []
    for version, beside in enumerate(({}, broken, layers), start=1):
        running.wait(update(running, update_of(shuffled, version, beside)))
        running.policy = shuffled
        found.append(acceptance(running, f"v{version}"))
    assert before > 0.05
    assert abs(found[0] - before) < 0.3 * before
    assert abs(found[1] - before) > 0.4 * before
    assert abs(found[2] - before) < 0.3 * before
