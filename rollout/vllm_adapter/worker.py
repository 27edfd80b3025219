"""The vLLM worker class that draws our way; named in the engine arguments, created inside vLLM's processes.

Seams of vLLM 0.32: `Worker.init_device` creates the model runner and with it what is replaced here: the sampler, the
verifier of drafts, and how the drafter draws; `load_model` the model that the temperature head looks into;
`sample_tokens` returns what a step drew, to which the kept sets are added.
"""

from typing import Any

from vllm.platforms import current_platform

from rollout.vllm_adapter import cpu_kernels, drafts, head
from rollout.vllm_adapter.rows import RowRules
from rollout.vllm_adapter.sampler import RecordingSampler
from rollout.vllm_adapter.scheduler import with_kept
from rollout.vllm_adapter.verification import ExactVerifier
from rollout.vllm_adapter.weights.receiver import WeightReceiver

if current_platform.is_cpu():
    from vllm.v1.worker.cpu_worker import CPUWorker as PlatformWorker
else:
    from vllm.v1.worker.gpu_worker import Worker as PlatformWorker


class TemperWorker(WeightReceiver, PlatformWorker):
    """The platform's worker with our draw and our weight updates."""

    def init_device(self) -> None:
        super().init_device()
        if current_platform.is_cpu():
            cpu_kernels.install()
        runner = self.model_runner
        self._rules = rules = RowRules(runner)
        runner.sampler = RecordingSampler(runner.sampler, rules)
        if runner.speculative_config is not None:
            runner.rejection_sampler = ExactVerifier(runner.sampler, rules)
            drafts.install(runner, rules)

    def load_model(self, *arguments: Any, **named: Any) -> None:
        super().load_model(*arguments, **named)
        self._rules.head = head.install(self.model_runner)

    def finish_weight_update(self, *arguments: Any, **named: Any) -> None:
        super().finish_weight_update(*arguments, **named)
        self._rules.weights_changed()

    def why_not_learned(self) -> str:
        """Why this engine cannot draw learned temperatures; empty if it can."""
        runner = self.model_runner
        if self._rules.head is None:
            return f"its model, {type(runner.get_model()).__name__}, has no output layer that a head could look into"
        if runner.speculative_config is not None and runner.use_async_scheduling:
            return "with drafts and asynchronous scheduling nobody knows in time which token came last"
        return ""

    def expect_hidden_state(self, name: str) -> None:
        if self._rules.head is None:
            raise RuntimeError("hidden states cannot be taken: the model has no output layer to look into")
        self._rules.prompt_states.expect(name)

    def take_hidden_state(self, name: str) -> list[float]:
        return self._rules.prompt_states.take(name)

    def sample_tokens(self, grammar_output: Any) -> Any:
        return with_kept(super().sample_tokens(grammar_output), self._rules.take_kept())
