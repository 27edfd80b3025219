"""vLLM worker classes that draw with `RecordingSampler`; named in the engine arguments, created inside vLLM's
processes.

Seam: `Worker.init_device` of vLLM 0.32 creates the model runner and with it the sampler that is replaced here.
"""

from vllm.platforms import current_platform

import rollout.vllm_adapter.weights  # noqa: F401  registers the weight-transfer backend in this process
from rollout.vllm_adapter.sampler import RecordingSampler

if current_platform.is_cpu():
    from vllm.v1.worker.cpu_worker import CPUWorker as PlatformWorker
else:
    from vllm.v1.worker.gpu_worker import Worker as PlatformWorker


class TemperWorker(PlatformWorker):
    """The platform's worker with our sampler."""

    def init_device(self) -> None:
        super().init_device()
        self.model_runner.sampler = RecordingSampler(self.model_runner)
