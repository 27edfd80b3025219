"""Real engines under load: streaming, shared prompts, abort and going on, age before arrival, numbers that add up."""

import asyncio
import time
from contextlib import aclosing

import numpy as np
import pytest
import torch
from transformers import Qwen2ForCausalLM

from orchestration.errors import WorkerFailure
from rollout.config import RolloutConfig, SpeculativeConfig
from rollout.draw.distribution import entropy, tempered_logprob
from rollout.draw.temperature import EntropyLinear, Fixed
from rollout.errors import RequestError
from rollout.messages import EngineMetrics, FinishReason, GroupRequest
from tests.models import random_policy
from tests.rollout.engines import DEADLINE_S, Running, recompute, recorded_errors, started, update, update_of

ADAPTIVE = EntropyLinear(low=0.5, high=1.6, entropy_low=2.5, entropy_high=5.0)
BLOCK = 32  # tokens of a block of keys and values on CPU
LENGTH = 512
TIGHT = 0.0005  # GiB: keys and values of 1 024 tokens, fewer than 8 long responses need
CONFIG = {"max_model_len": LENGTH, "max_num_seqs": 8, "max_queued_seqs": 4, "kv_cache_gib": TIGHT}


@pytest.fixture(scope="module", params=["in_process", pytest.param("async_llm", marks=pytest.mark.slow)])
def running(request, ray_cluster, tmp_path_factory) -> Running:
    folder = tmp_path_factory.mktemp("policy")
    policy = random_policy(folder)
    config = RolloutConfig(engine=request.param, **CONFIG)
    with started(folder, policy, config, SpeculativeConfig(), f"engines-{request.param}") as worker:
        yield worker


def ask(name: str, *, n: int = 4, prompt: int = 6, max_tokens: int = 64, temperature=ADAPTIVE, **more) -> GroupRequest:
    """The prompt has `prompt` tokens and, by its name, a beginning of its own."""
    start = sum(map(ord, name)) % 50
    ids = tuple(3 + (start + 7 * i) % 300 for i in range(prompt))
    return GroupRequest(group_id=name, prompt_ids=ids, n=n, max_tokens=max_tokens, temperature=temperature, **more)


async def metrics(running: Running) -> EngineMetrics:
    return await running.worker.call("metrics", deadline_s=DEADLINE_S)


async def settled(running: Running) -> EngineMetrics:
    """The metrics once the engine is empty; a response that nobody waits for is ended in its own time."""
    for _ in range(100):
        found = await metrics(running)
        if not found.running + found.waiting:
            return found
        await asyncio.sleep(0.05)
    raise AssertionError(f"something stays in the engine: {found}")


def test_responses_are_handed_on_when_they_are_finished(running):
    """Through Ray, the first of 16 responses arrives well before the last."""

    async def run():
        began = time.perf_counter()
        request = ask("stream", n=16, max_tokens=400)
        stream = running.stream(request)
        return [(rollout.index, time.perf_counter() - began) async for rollout in stream]

    arrived = running.wait(run())
    assert sorted(index for index, _ in arrived) == list(range(16))
    assert arrived[0][1] < 0.6 * arrived[-1][1]


def test_a_group_computes_its_prompt_once(running):
    """Of 8 responses to 200 tokens, which arrive together, 7 find all 6 whole blocks in the prefix cache."""

    async def run():
        before = await settled(running)
        await running.group(ask("prefix", n=8, prompt=200, max_tokens=2))
        after = await metrics(running)
        return after.prompt_tokens - before.prompt_tokens, after.cached_prompt_tokens - before.cached_prompt_tokens

    assert running.wait(run()) == (8 * 200, 7 * (200 // BLOCK) * BLOCK)


def test_an_aborted_group_goes_on_after_an_update(running):
    """What was drawn before the abort keeps its record and version, the rest is the new weights'; nothing leaks."""
    old = running.policy
    new = Qwen2ForCausalLM(old.config).eval()
    generator = torch.Generator().manual_seed(5)
    new.load_state_dict(
        {name: value + 0.02 * torch.randn(value.shape, generator=generator) for name, value in old.state_dict().items()}
    )
    request = ask("abort", n=12, max_tokens=300)

    async def run():
        before = await settled(running)
        group = asyncio.create_task(running.group(request))
        while (await metrics(running)).generated_tokens < before.generated_tokens + 400:
            await asyncio.sleep(0.01)
        ended = await running.worker.call("abort", "abort", deadline_s=DEADLINE_S)
        drawn = await group
        await running.group(ask("next", n=1, max_tokens=1))  # whoever still ran in vLLM would hold memory after it
        left = await metrics(running)
        assert (left.running, left.waiting, left.kv_cache_usage, left.aborted - before.aborted) == (0, 0, 0.0, ended)
        confirmation = await update(running, update_of(new, 1))
        assert confirmation.version == 1
        partial = tuple(rollout for rollout in drawn if rollout.finish_reason is FinishReason.ABORT)
        assert len(partial) == ended > 0
        again = ask("abort", n=len(partial), max_tokens=300, partial=partial)
        return partial, await running.group(again)

    partial, whole = running.wait(run())
    running.policy = new
    assert [rollout.index for rollout in whole] == [rollout.index for rollout in partial]
    assert any(len(rollout.response_ids) for rollout in partial), "nothing had begun: this test would prove nothing"
    assert not all(len(rollout.response_ids) for rollout in partial), "nobody was waiting yet"
    for before, rollout in zip(partial, whole, strict=True):
        border = len(before.response_ids)
        assert rollout.versions.tolist() == [0] * border + [1] * (len(rollout.response_ids) - border)
        tokens = torch.tensor(rollout.response_ids).long()
        for policy, part in ((old, slice(0, border)), (new, slice(border, None))):
            logits = recompute(policy, rollout)
            logprobs = tempered_logprob(logits, tokens, ADAPTIVE(entropy(logits))).numpy()
            assert np.abs(logprobs - rollout.sampler_logprobs)[part].max(initial=0.0) < 1e-4


def test_age_comes_before_arrival_and_nothing_is_dropped(running):
    """Eight groups of 8 fill an engine of 8 + 4; a ninth that is older than all of them overtakes all that wait."""

    async def run():
        await settled(running)
        finished = []

        async def group(name: str, **more):
            rollouts = await running.group(ask(name, n=8, max_tokens=120, **more))
            finished.append(name)
            return len(rollouts)

        young = [asyncio.create_task(group(f"young-{i}", priority=10 + i)) for i in range(8)]
        while (await metrics(running)).waiting < 50:
            await asyncio.sleep(0.01)
        loaded = await metrics(running)
        old = asyncio.create_task(group("old", priority=0))
        drawn = await asyncio.gather(old, *young)
        return loaded, finished, drawn

    loaded, finished, drawn = running.wait(run())
    assert drawn == [8] * 9
    assert (loaded.capacity, loaded.running <= 8, loaded.running + loaded.waiting <= 64) == (12, True, True)
    # young-0 is in the engine, and 4 of young-1 may be: they are not thrown out for the old one.
    assert finished.index("old") <= 2, finished
    assert finished.index("young-7") >= 7, finished


def test_memory_runs_short_and_the_record_stays_right(running):
    """Responses that lose their keys and values to others are counted, go on, and are still what they say they are."""
    request = ask("tight", n=8, max_tokens=LENGTH - 6)

    async def run():
        before = await settled(running)
        rollouts = await running.group(request)
        return before, rollouts, await metrics(running)

    before, rollouts, after = running.wait(run())
    assert after.preemptions > before.preemptions
    assert after.generated_tokens - before.generated_tokens == sum(len(rollout.response_ids) for rollout in rollouts)
    for rollout in rollouts:  # up to 500 tokens, at temperatures down to 0.5, which double a logit's rounding
        assert max(recorded_errors(running.policy, rollout, request)) < 5e-4


def test_numbers_while_it_works_and_when_it_is_done(running):
    """Under load: who runs, who waits, memory in use, time spent; afterwards all of it is back at rest."""

    async def run():
        before = await settled(running)
        group = asyncio.create_task(running.group(ask("numbers", n=16, max_tokens=300)))
        while (found := await metrics(running)).steps < before.steps + 20:
            await asyncio.sleep(0.01)
        health = await running.worker.call("health", deadline_s=DEADLINE_S)
        await group
        return before, found, health, await metrics(running)

    before, during, health, after = running.wait(run())
    assert 0 < during.running <= 8
    assert 0 < during.running + during.waiting <= 16
    assert 0.0 < during.kv_cache_usage <= 1.0
    assert health.well
    assert health.silent_s < 60
    assert before.busy_s < during.busy_s < after.busy_s
    assert (after.running, after.waiting, after.kv_cache_usage) == (0, 0, 0.0)
    assert after.drafted_by_position == after.accepted_by_position == ()
    assert after.begun - before.begun == 16
    plain, steps = after.plain_steps - before.plain_steps, after.steps - before.steps
    assert 0.5 * steps < plain < steps, "most steps only draw; those that read the prompts do not"
    assert plain <= after.plain_tokens - before.plain_tokens <= 8 * plain
    assert 0.0 < after.plain_s - before.plain_s < after.step_s - before.step_s
    assert after.step_s - before.step_s < after.busy_s - before.busy_s + 0.05


def test_whoever_stops_listening_frees_the_engine(running):
    """The driver leaves a stream after its first response: the other 15 are ended in the engine."""

    async def run():
        request = ask("leave", n=16, max_tokens=500)
        async with aclosing(running.stream(request)) as rollouts:
            async for _ in rollouts:
                break
        await settled(running)
        await running.group(ask("next", n=1, max_tokens=1))
        return await metrics(running)

    assert running.wait(run()).kv_cache_usage == 0.0


def smuggled(**values) -> Fixed:
    """A policy that no constructor would let through, as broken code might send it."""
    policy = Fixed()
    for name, value in values.items():
        object.__setattr__(policy, name, value)
    return policy


class Unheard(Fixed):
    name = "unheard_of"


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (
            ask("long", prompt=400, max_tokens=200),
            r"needs 600 tokens .* but the engine holds 512: raise rollout.max_mod",
        ),
        (
            ask("nan", temperature=smuggled(temperature=float("nan"))),
            r"a temperature that no engine can draw at.*got nan",
        ),
        (ask("cold", temperature=smuggled(temperature=-1.0)), r"a temperature that no engine can draw at.*got -1"),
        (ask("what", temperature=Unheard()), r"unknown temperature policy 'unheard_of'; known are entropy_linear"),
        (ask("word", temperature=0.7), r"asks for a temperature that no engine can draw at, 0.7"),
    ],
    ids=["over-long", "nan", "negative", "unknown policy", "no policy"],
)
def test_what_cannot_be_drawn_is_refused_before_anything_is(running, request_, sentence):
    """One sentence, nothing generated, and the engine goes on to serve the next request."""

    async def run():
        before = await settled(running)
        with pytest.raises(WorkerFailure, match=sentence) as failure:
            await running.group(request_)
        assert isinstance(failure.value.__cause__, RequestError)
        assert "\n" not in str(failure.value)
        assert (await metrics(running)).generated_tokens == before.generated_tokens

    running.wait(run())
    [[rollout]] = running.generate(ask("after", n=1, max_tokens=1))
    assert len(rollout.response_ids) == 1
