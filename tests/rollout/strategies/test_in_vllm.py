"""Every strategy on real engines: what it says the policy drew is what transformers says the policy would record."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import Qwen2ForCausalLM

from rollout.config import RolloutConfig, SpeculativeConfig
from rollout.draw.distribution import softmax_with_entropy
from rollout.draw.temperature import EntropyLinear, Fixed
from rollout.draw.truncation import Truncation
from rollout.messages import FinishReason, GroupRequest, Rollout
from rollout.strategies import DiffAdapt, ModelSwitch, RolloutStrategy, SecondRollout
from rollout.strategies.bes import Evolution
from rollout.strategies.diff_adapt.labels import Difficulty
from rollout.strategies.diff_adapt.probe import DifficultyProbe
from rollout.worker import RolloutWorker
from tests.models import byte_tokenizer, random_policy
from tests.rollout.engines import DEADLINE_S, PROMPT, Running, ask, drawn_from, recompute, started, update, update_of
from tests.rollout.strategies.ways import ways

ADAPTIVE = EntropyLinear(low=0.5, high=1.6, entropy_low=2.5, entropy_high=5.0)
CONFIG = RolloutConfig(max_model_len=512, max_num_seqs=64, kv_cache_gib=0.1)


class Changeable(RolloutWorker):
    """A worker whose strategy can be exchanged: one engine serves all the tests."""

    async def use(self, strategy: RolloutStrategy) -> None:
        self._source = strategy.over(self._resources)


@pytest.fixture(scope="module")
def running(ray_cluster, tmp_path_factory) -> Running:
    folder = tmp_path_factory.mktemp("policy")
    policy = random_policy(folder, tied=True)
    with started(folder, policy, CONFIG, SpeculativeConfig(), "strategies", factory=Changeable) as worker:
        yield worker


def use(running: Running, strategy: RolloutStrategy) -> None:
    running.wait(running.worker.call("use", strategy, deadline_s=DEADLINE_S))


def trained(name: str, temperature=ADAPTIVE, **changes) -> GroupRequest:
    return replace(ask(name, temperature), trained=True, **changes)


def drawn(rollout: Rollout) -> np.ndarray:
    return np.ones(len(rollout.response_ids), bool) if rollout.policy_drawn is None else rollout.policy_drawn


def check_record(policy: Qwen2ForCausalLM, rollout: Rollout, request: GroupRequest, mine: np.ndarray) -> None:
    """Logprob, entropy and temperature of the tokens `mine` are those of `policy` at the request's setting."""
    probabilities, entropies, temperatures = drawn_from(recompute(policy, rollout), request)
    ids = torch.tensor(rollout.response_ids).long()
    logprobs = probabilities[torch.arange(len(ids)), ids].log()
    for computed, recorded in (
        (logprobs, rollout.sampler_logprobs),
        (entropies, rollout.entropies),
        (temperatures, rollout.temperatures),
    ):
        assert np.abs(computed.numpy() - recorded)[mine].max() < 1e-4


@torch.no_grad()
def hidden_by_transformers(policy: Qwen2ForCausalLM, prompt_ids: tuple[int, ...]) -> np.ndarray:
    return policy(torch.tensor([prompt_ids]), output_hidden_states=True).hidden_states[-1][0, -1].numpy()


def test_hidden_states_behind_prompts(running):
    """Those of several prompts asked for at once, in a batch that draws, are transformers' to 1e-4; cached or not."""
    prompts = [PROMPT, (*PROMPT, 9), tuple(range(3, 200)), PROMPT]

    async def all_of():
        asking = [running.worker.call("hidden_state", prompt, deadline_s=DEADLINE_S) for prompt in prompts]
        return (await asyncio.gather(running.group(ask("noise", ADAPTIVE)), *asking))[1:]

    for prompt, found in zip(prompts, running.wait(all_of()), strict=True):
        assert np.abs(found - hidden_by_transformers(running.policy, prompt)).max() < 1e-4


def test_a_second_rollout(running):
    """The last two of eight are drawn at 1.2, recorded as such, and all eight are the policy's own."""
    use(running, SecondRollout())
    request = trained("second", second_temperature=Fixed(temperature=1.2))
    [rollouts] = running.generate(request)
    assert [rollout.index for rollout in rollouts] == list(range(8))
    for rollout in rollouts:
        asked = request if rollout.index < 6 else replace(request, temperature=Fixed(temperature=1.2))
        check_record(running.policy, rollout, asked, drawn(rollout))


@pytest.mark.parametrize("difficulty", Difficulty)
def test_a_prompt_drawn_by_its_difficulty(running, tmp_path, difficulty):
    """The probe's class decides opener, length, temperature and top-p; the record is of exactly that draw."""
    probe = DifficultyProbe(64, announcement=" How hard?", width=8)
    announced = (*PROMPT, *byte_tokenizer().encode(" How hard?", add_special_tokens=False))
    hidden = torch.from_numpy(hidden_by_transformers(running.policy, announced))
    with torch.no_grad():  # so that this very hidden state, and not its negative, means `difficulty`
        probe.first.weight.copy_(hidden.expand(8, -1))
        probe.second.weight.zero_()
        probe.second.weight[difficulty] = 1.0
        probe.first.bias.zero_()
        probe.second.bias.zero_()
    probe.save(tmp_path / "probe.safetensors")
    strategy = DiffAdapt(probe=str(tmp_path / "probe.safetensors"), **ways(), cue=" so {", cue_tokens=20)
    use(running, strategy)
    request = trained(f"by-{difficulty}", Fixed(), n=3, max_tokens=60)
    way = strategy.way(difficulty)
    asked = replace(request, temperature=Fixed(temperature=way.temperature), truncation=Truncation(top_p=way.top_p))
    [rollouts] = running.generate(request)
    for rollout in rollouts:
        room = int(way.length * 60)
        first = np.arange(len(rollout.response_ids)) < room
        assert rollout.text.startswith(way.opener)
        assert not drawn(rollout)[: len(way.opener)].any()
        assert drawn(rollout)[len(way.opener) : room].all()
        check_record(running.policy, rollout, asked, drawn(rollout) & first)
        if len(rollout.response_ids) > room:  # the cue, and what the policy drew behind it
            rescued = replace(request, temperature=Fixed(temperature=strategy.cue_temperature))
            assert not drawn(rollout)[room : room + 5].any()
            check_record(running.policy, rollout, rescued, drawn(rollout) & ~first)


def test_a_pool_of_solutions(running):
    """What BES says the policy drew, the policy records so behind this very prefix, whatever was recombined."""
    use(running, Evolution(budget=12, combine=0.2, translocate=0.2, crossover=0.2, delete=0.1, chunk=8))
    request = trained("pool", n=6, max_tokens=48)
    [rollouts] = running.generate(request)
    assert [rollout.index for rollout in rollouts] == list(range(6))
    for rollout in rollouts:
        mine = drawn(rollout)
        assert len(mine) <= 48
        if mine.any():
            check_record(running.policy, rollout, request, mine)


def test_what_is_not_trained_goes_past_the_strategy(running):
    """Evaluation sees the policy itself, whatever the strategy does with what is trained."""
    use(running, SecondRollout())
    [rollouts] = running.generate(
        replace(trained("evaluated"), trained=False, second_temperature=Fixed(temperature=1.7))
    )
    assert all(1.7 not in rollout.temperatures for rollout in rollouts)


@pytest.mark.slow
def test_two_models_take_turns(ray_cluster, tmp_path):
    """Each token's record is that of the model which drew it, also through a weight update of the policy alone."""
    (tmp_path / "small").mkdir()
    (tmp_path / "large").mkdir()
    small, large = random_policy(tmp_path / "small", seed=0), random_policy(tmp_path / "large", seed=1)
    entropies = [
        softmax_with_entropy(small(torch.randint(3, 300, (1, 40))).logits[0].detach())[1].mean() for _ in range(8)
    ]
    bits = float(np.mean(entropies)) / np.log(2)
    strategy = ModelSwitch(
        other_model=str(tmp_path / "large"), policy="small", threshold=bits, window=3, dwell=4, segment=8
    )
    new = Qwen2ForCausalLM(small.config).eval()
    new.load_state_dict(small.state_dict())
    with torch.no_grad():
        for parameter in new.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    request = trained("turns", n=6, max_tokens=400)

    async def under_an_update(running):
        group = asyncio.ensure_future(running.group(request))
        await asyncio.sleep(0.15)
        await update(running, update_of(new, 1))
        return await group

    with started(tmp_path / "small", small, CONFIG, SpeculativeConfig(), "two-models", strategy=strategy) as running:
        rollouts = running.wait(under_an_update(running))
    assert {span.version for rollout in rollouts for span in rollout.spans} == {0, 1}, "no update in flight"
    for rollout in rollouts:
        mine = drawn(rollout)
        assert 0 < mine.sum() < len(mine), "nobody took turns: this test would prove nothing"
        check_record(large, rollout, request, ~mine)
        for version, policy in ((0, small), (1, new)):
            if (part := mine & (rollout.versions == version)).any():
                check_record(policy, rollout, request, part)
        assert rollout.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)
