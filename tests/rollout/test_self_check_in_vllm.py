"""The start-up check against real engines: a sound one passes with and without drafts, each broken one is caught."""

import asyncio
from dataclasses import replace

import pytest
import torch
from transformers import Qwen2ForCausalLM

from orchestration.self_check import self_check
from rollout.config import RolloutConfig, SpeculativeConfig
from rollout.draw.fit import Drawn, Recomputed
from rollout.draw.fit import recompute as recompute_drawn
from rollout.draw.temperature import EntropyLinear
from rollout.draw.truncation import Truncation
from rollout.errors import SelfCheckError
from rollout.worker import RolloutWorker
from tests.models import random_mtp_policy, random_policy
from tests.rollout.engines import PROMPT, Running, started

pytestmark = pytest.mark.slow
ADAPTIVE = EntropyLinear(low=0.5, high=1.6, entropy_low=2.5, entropy_high=5.0)
MTP = SpeculativeConfig(method="mtp")


class RotatedPolicies(RolloutWorker):
    """Gives each request's rows the policy of another one."""

    async def start(self) -> str:
        from rollout.vllm_adapter import rows

        sound = rows._temperatures
        rows._temperatures = lambda policies, *rest: sound(policies[::-1], *rest)
        return await super().start()


class RawLogprobs(RolloutWorker):
    """Records the logprobs at T = 1."""

    async def start(self) -> str:
        from rollout.vllm_adapter import rows, sampler

        sound_rows, sound_record = rows.RowRules.rows, sampler.record

        def remembering(self, logits, *rest):
            found = sound_rows(self, logits, *rest)
            RawLogprobs.plain = logits.softmax(-1)
            return found

        rows.RowRules.rows = remembering
        sampler.record = lambda rows, *rest: sound_record(replace(rows, probabilities=RawLogprobs.plain), *rest)
        return await super().start()


class BiasedDraw(RolloutWorker):
    """Leans to low token ids."""

    async def start(self) -> str:
        from rollout.vllm_adapter import sampler

        sound = sampler.uniforms
        sampler.uniforms = lambda *shape, **named: sound(*shape, **named) ** 1.5
        return await super().start()


class Learner:
    """Scores with transformers what the engine drew."""

    def __init__(self, policy: Qwen2ForCausalLM) -> None:
        self.policy = policy

    async def score(self, responses: list[Drawn]) -> tuple[int, list[Recomputed]]:
        return 0, [recompute_drawn(self._logits(one), one) for one in responses]

    @torch.no_grad()
    def _logits(self, drawn: Drawn) -> torch.Tensor:
        ids = torch.tensor([[*drawn.prompt_ids, *drawn.response_ids.tolist()]])
        return self.policy(ids).logits[0, len(drawn.prompt_ids) - 1 : -1].float()


class Worker:
    """A running engine as the driver sees it."""

    name = "rollout-0"

    def __init__(self, running: Running) -> None:
        self.running = running

    async def generate(self, request):
        for rollout in await self.running.group(request):
            yield rollout


def checked(folder, factory: type[RolloutWorker], drafting: SpeculativeConfig, name: str):
    policy = random_mtp_policy(folder) if drafting.method == "mtp" else random_policy(folder)
    config = RolloutConfig(max_model_len=512, max_num_seqs=64, kv_cache_gib=0.1)
    with started(folder, policy, config, drafting, name, factory=factory) as running:
        check = self_check(
            Worker(running),
            Learner(policy),
            prompts=(PROMPT, (1, 5, 9, 13)),
            temperature=ADAPTIVE,
            truncation=Truncation(top_p=0.95),
            dtype="float32",
            max_model_len=512,
        )
        return running.wait(asyncio.wait_for(check, 60))


@pytest.mark.parametrize("drafting", [SpeculativeConfig(), MTP], ids=["none", "mtp"])
def test_a_sound_engine_passes(ray_cluster, tmp_path, drafting):
    """Its record agrees to 1e-5, and its draws fit."""
    report = checked(tmp_path, RolloutWorker, drafting, f"sound-{drafting.method}")
    assert max(report.entropy_error, report.temperature_error, report.logprob_error) < 1e-5
    assert report.tokens >= 400


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (RotatedPolicies, "another request's policy"),
        (RawLogprobs, "those at T=1, recorded before temperature"),
        (BiasedDraw, "the draw is biased"),
    ],
)
def test_a_broken_engine_is_caught(ray_cluster, tmp_path, factory, message):
    """With one sentence that names the fault."""
    with pytest.raises(SelfCheckError, match=message):
        checked(tmp_path, factory, SpeculativeConfig(), factory.__name__)
