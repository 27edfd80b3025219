"""A policy that drafts for itself: any policy, plus a multi-token-prediction layer trained on its own samples.

    base model -> folder --vLLM--> own samples --learner/drafter--> the folder with a drafter, kept by content

Drafts are verified exactly, so the drafter changes how fast the policy is rolled out and nothing else.
"""

import asyncio
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from orchestration.models.cache import cached_folder, content_key, source_of
from orchestration.tasks.task import TaskSource
from rollout.config import RolloutConfig, SpeculativeConfig
from rollout.draw.control import controller_of
from rollout.draw.temperature import Fixed
from rollout.draw.truncation import Truncation
from rollout.messages import GroupRequest, Rollout

SAMPLING_DEADLINE_S = 3600.0
GROUP = 16  # responses to a prompt
PROMPT_SEED = 20_260_612  # of the task stream; the run's own seeds are small numbers
ACCEPTANCE_FILE = "drafter-acceptance.json"  # of each draft of a chain, on samples that were not trained on
FINGERPRINT_TASKS = 64  # enough to tell two sources apart


@dataclass(frozen=True, kw_only=True)
class WithDrafter:
    """`base` with a drafter; `training` is a learner.drafter.train.DrafterTraining, `rollout` the engine that samples.

    Samples are drawn at the run's `temperature` (a policy, or a controller's first) and `truncation`, and p and q are
    what the engine makes of them: a run with others finds another drafter in the cache, or trains it.
    """

    base: Any  # another model source
    training: Any
    samples: int = 4096  # responses that the drafter is trained on
    temperature: Any = field(default_factory=Fixed)
    truncation: Any = field(default_factory=Truncation)
    rollout: RolloutConfig = field(
        default_factory=lambda: RolloutConfig(prefix_caching=False, kv_on_update="keep", kv_cache_gib=0.25)
    )

    def resolve(self, source: TaskSource, progress: Any) -> Path:
        """A folder with config, weights, tokenizer and drafter. Raises ModelError, LearnerError, RolloutError."""
        from learner import drafter
        from learner.drafter import chains, files, layer, losses, rule, train

        base = self.base.resolve(source, progress)
        files.check_draftable(base)
        key = content_key(
            repr([(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(base.iterdir())]),
            repr((self.training, self.samples, self.temperature, self.truncation)),
            repr([source.train_task(index, PROMPT_SEED).prompt for index in range(FINGERPRINT_TASKS)]),
            source_of((drafter, chains, files, layer, losses, rule, train)),
            torch.__version__,
        )

        def build(folder: Path) -> None:
            samples = asyncio.run(self.own_samples(base, source))
            self._train(base, samples, folder, progress)

        return cached_folder(f"{base.name.rpartition('-')[0] or base.name}-drafter", key, build)

    def _train(self, base: Path, samples: Sequence[Rollout], folder: Path, progress: Any) -> None:
        from transformers import AutoModelForCausalLM

        from learner.drafter.files import save_with_drafter, tensors_of
        from learner.drafter.rule import DraftRule
        from learner.drafter.train import train_drafter

        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # the weights depend on the order of sums
        try:
            policy = AutoModelForCausalLM.from_pretrained(base)
            rule = DraftRule(temperature=self.temperature, truncation=self.truncation)
            layer, acceptance = train_drafter(policy, [*map(own_sample, samples)], self.training, rule, progress)
        finally:
            torch.set_num_threads(threads)
        save_with_drafter(base, tensors_of(layer, policy.dtype), folder)
        (folder / ACCEPTANCE_FILE).write_text(json.dumps([round(one, 4) for one in acceptance]))

    async def own_samples(self, base: Path, source: TaskSource) -> list[Rollout]:
        """Responses of the policy itself, by one worker in an actor of its own."""
        import ray
        from transformers import AutoTokenizer

        from orchestration.config import ClusterConfig
        from orchestration.models.prompts import encode_prompt
        from orchestration.on_ray.actor import Service
        from orchestration.on_ray.connect import connect
        from rollout.vllm_adapter.start import environment
        from rollout.worker import RolloutWorker

        tokenizer, temperature = AutoTokenizer.from_pretrained(base), controller_of(self.temperature).policy()
        requests = [
            GroupRequest(
                group_id=f"drafter-{index}",
                prompt_ids=encode_prompt(tokenizer, source.train_task(index, PROMPT_SEED), source.chat),
                n=GROUP,
                max_tokens=source.max_tokens,
                temperature=temperature,
                truncation=self.truncation,
            )
            for index in range(-(-self.samples // GROUP))
        ]
        longest = max(len(request.prompt_ids) for request in requests) + source.max_tokens
        config = replace(self.rollout, max_model_len=longest)
        started = not ray.is_initialized()
        if started:
            connect(ClusterConfig(), cpus=1.0)
        with tempfile.TemporaryDirectory() as logs:
            worker = await Service.start(
                "drafter-samples",
                Path(logs) / "worker.log",
                RolloutWorker,
                ("drafter-samples", config, SpeculativeConfig(), base, 0),
                cpus=1.0,
                gpus=config.num_gpus,
                env=environment(config),
                deadline_s=config.start_deadline_s,
            )
            try:
                await worker.call("start", deadline_s=config.start_deadline_s)
                groups = await asyncio.gather(*(_all_of(worker, request) for request in requests))
            finally:
                worker.kill()
                if started:
                    ray.shutdown()
        return [rollout for group in groups for rollout in group]


def own_sample(rollout: Rollout) -> Any:
    """What a drafter is trained on of a response, as learner.drafter.train.OwnSample."""
    from learner.drafter.train import OwnSample
    from learner.messages import KeptTokens

    return OwnSample(
        prompt_ids=rollout.prompt_ids,
        response_ids=rollout.response_ids,
        temperatures=rollout.temperatures,
        trained=rollout.policy_drawn,
        kept=rollout.kept and KeptTokens(ids=rollout.kept.ids, counts=rollout.kept.counts),
    )


async def _all_of(worker: Any, request: GroupRequest) -> list[Rollout]:
    answers = worker.stream("generate", request, deadline_s=SAMPLING_DEADLINE_S)
    return [rollout async for rollouts in answers for rollout in rollouts]
