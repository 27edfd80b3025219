"""How kept sets leave the engine's core: on the way that vLLM has for sampling masks.

vLLM 0.32 carries such masks ("sampling distribution replay") for its V2 runner. The V1 runner does not fill them in and
its configuration refuses the switch, but the scheduler and all behind it do not care which runner they come from: the
worker adds them to the runner's output, and `scheduler` passes them on, cut to the tokens that each request keeps.
"""

from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.outputs import AsyncModelRunnerOutput, ModelRunnerOutput, SamplingMaskLists

from rollout.vllm_adapter import draft_length
from rollout.vllm_adapter.kept import KeptRows


def scheduler(**arguments: Any) -> Scheduler:
    """vLLM's own, told that the runner's output has masks. For `EngineArgs.scheduler_cls`."""
    asynchronous = arguments["vllm_config"].scheduler_config.async_scheduling
    made = (AsyncScheduler if asynchronous else Scheduler)(**arguments)
    made.return_sampling_mask = True
    if made.dynamic_sd_lookup is not None:  # speculative.adaptive
        draft_length.install(made)
    return made


def with_kept(output: Any, kept: KeptRows | None) -> Any:
    """The runner's output with the step's kept sets, whether it is there already or still being copied from a GPU."""
    if kept is None:
        return output
    if isinstance(output, AsyncModelRunnerOutput):
        return _Later(output, kept)
    output.sampling_masks = SamplingMaskLists(kept.ids, kept.offsets, kept.starts)
    return output


class _Later(AsyncModelRunnerOutput):
    """Not run: asynchronous scheduling is off on a CPU."""

    def __init__(self, output: AsyncModelRunnerOutput, kept: KeptRows) -> None:
        self._output = output
        self._kept = kept

    def get_output(self) -> ModelRunnerOutput:
        return with_kept(self._output.get_output(), self._kept)
