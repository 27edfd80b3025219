"""The vLLM worker class that draws our way; named in the engine arguments, created inside vLLM's processes.

Seam: `Worker.init_device` of vLLM 0.32 creates the model runner and with it what is replaced here: the sampler, the
verifier of drafts, and how the drafter draws.
"""

from vllm.platforms import current_platform

import rollout.vllm_adapter.weights  # noqa: F401  registers the weight-transfer backend in this process
from rollout.vllm_adapter import drafts
from rollout.vllm_adapter.rows import RowRules
from rollout.vllm_adapter.sampler import RecordingSampler
from rollout.vllm_adapter.verification import ExactVerifier

if current_platform.is_cpu():
    from vllm.v1.worker.cpu_worker import CPUWorker as PlatformWorker
else:
    from vllm.v1.worker.gpu_worker import Worker as PlatformWorker


class TemperWorker(PlatformWorker):
    """The platform's worker with our draw."""

    def init_device(self) -> None:
        super().init_device()
        runner = self.model_runner
        rules = RowRules(runner)
        runner.sampler = RecordingSampler(runner.sampler, rules)
        if runner.speculative_config is not None:
            runner.rejection_sampler = ExactVerifier(runner.sampler, rules)
            drafts.install(runner, rules)
