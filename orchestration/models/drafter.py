"""A policy that drafts for itself: any policy, plus a multi-token-prediction layer trained on its own samples.

    base model -> folder --vLLM, T = 1--> own samples --learner/drafter--> the folder with a drafter, kept by content

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
from rollout.draw.temperature import Fixed
from rollout.messages import GroupRequest, Rollout

SAMPLING_DEADLINE_S = 3600.0
GROUP = 16  # responses to a prompt
PROMPT_SEED = 20_260_612  # of the task stream; the run's own seeds are small numbers
ACCEPTANCE_FILE = "drafter-acceptance.json"  # of each draft of a chain, on samples that were not trained on
FINGERPRINT_TASKS = 64  # enough to tell two sources apart


@dataclass(frozen=True, kw_only=True)
class WithDrafter:
    """`base` with a drafter; `training` is a learner.drafter.DrafterTraining, `rollout` the engine that samples."""

    base: Any  # another model source
    training: Any
    samples: int = 4096  # responses that the drafter is trained on
    rollout: RolloutConfig = field(
        default_factory=lambda: RolloutConfig(prefix_caching=False, kv_on_update="keep", kv_cache_gib=0.25)
    )

    def resolve(self, source: TaskSource, progress: Any) -> Path:
        """A folder with config, weights, tokenizer and drafter. Raises ModelError, LearnerError, RolloutError."""
        from learner import drafter
        from learner.drafter import files, layer, losses, train

        base = self.base.resolve(source, progress)
        files.check_draftable(base)
        key = content_key(
            repr([(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(base.iterdir())]),
            repr((self.training, self.samples)),
            repr([source.train_task(index, PROMPT_SEED).prompt for index in range(FINGERPRINT_TASKS)]),
            source_of((drafter, files, layer, losses, train)),
            torch.__version__,
        )

        def build(folder: Path) -> None:
            samples = asyncio.run(self._sample(base, source))
            self._train(base, samples, folder, progress)

        return cached_folder(f"{base.name.rpartition('-')[0] or base.name}-drafter", key, build)

    def _train(self, base: Path, samples: Sequence[tuple], folder: Path, progress: Any) -> None:
        from transformers import AutoModelForCausalLM

        from learner.drafter.files import save_with_drafter
        from learner.drafter.train import OwnSample, train_drafter

        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # the weights depend on the order of sums
        try:
            policy = AutoModelForCausalLM.from_pretrained(base)
            own = [OwnSample(*sample) for sample in samples]
            layer, acceptance = train_drafter(policy, own, self.training, progress)
        finally:
            torch.set_num_threads(threads)
        save_with_drafter(base, layer, folder)
        (folder / ACCEPTANCE_FILE).write_text(json.dumps([round(one, 4) for one in acceptance]))

    async def _sample(self, base: Path, source: TaskSource) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """(prompt, response) of the policy itself, by one worker in an actor of its own."""
        import ray
        from transformers import AutoTokenizer

        from orchestration.actor import Service
        from orchestration.config import ClusterConfig
        from orchestration.models.prompts import encode_prompt
        from orchestration.ray_services import connect
        from rollout.vllm_adapter.start import environment
        from rollout.worker import RolloutWorker

        tokenizer = AutoTokenizer.from_pretrained(base)
        requests = [
            GroupRequest(
                group_id=f"drafter-{index}",
                prompt_ids=encode_prompt(tokenizer, source.train_task(index, PROMPT_SEED), source.chat),
                n=GROUP,
                max_tokens=source.max_tokens,
                temperature=Fixed(),
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
        return [(one.prompt_ids, tuple(one.response_ids.tolist())) for group in groups for one in group]


async def _all_of(worker: Any, request: GroupRequest) -> list[Rollout]:
    answers = worker.stream("generate", request, deadline_s=SAMPLING_DEADLINE_S)
    return [rollout async for rollouts in answers for rollout in rollouts]
