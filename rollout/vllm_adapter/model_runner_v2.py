"""The draw inside vLLM's Model Runner V2, its default on GPUs: the same behaviour through other seams. Not run yet.

    logits -> penalties, masks (vLLM) -> Temperatures.apply (fused_temperature.py) -> Gumbel draw or rejection (vLLM)
           -> [logprob, H, T] per token, in the columns of V1 (sampler.py)

Here vLLM draws by itself: what a custom logits processor returns is what its sampler, its verifier of drafts and its
logprobs use, and it is called on the rows of drafts too. So only three things are added: the processor, the record, and
the same temperature for the drafter, whose cached logits are then those it really drew from (exact whatever they are).
Chosen by rollout.model_runner=v2. What it cannot do, it refuses when a request arrives: truncation (nothing reports
what was kept beside a processor) and learned temperatures. Written against the sources of vLLM 0.32 alone.
"""

from typing import Any

import torch
from torch import Tensor
from vllm.config import VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.v1.outputs import LogprobsTensors
from vllm.v1.worker.gpu.input_batch import InputBatch
from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcessor, LogitsProcRequestState
from vllm.v1.worker.gpu.sample.output import SamplerOutput
from vllm.v1.worker.gpu.sample.sampler import Sampler
from vllm.v1.worker.gpu.sample.states import NO_LOGPROBS
from vllm.v1.worker.gpu.spec_decode.rejection_sampler import RejectionSampler
from vllm.v1.worker.gpu_worker import Worker

from rollout.draw import truncation
from rollout.draw.temperature import Fixed, TemperaturePolicy, from_wire
from rollout.vllm_adapter.fused_temperature import PARAMETERS, parameters_of, temper_
from rollout.vllm_adapter.rows import POLICY_KEY, TRUNCATION_KEY
from rollout.vllm_adapter.weights.receiver import WeightReceiver


class Temperatures(LogitsProcessor):
    """Each row divided by its request's temperature; named in the engine arguments, created by the runner."""

    def __init__(self, vllm_config: VllmConfig, req_states: LogitsProcRequestState) -> None:
        shape = (req_states.max_num_reqs, PARAMETERS)
        self._host = torch.zeros(shape, dtype=torch.float32)
        self.table = torch.zeros(shape, dtype=torch.float32, device=req_states.device)  # at one address: CUDA graphs
        self._changed = False
        self.found: tuple[Tensor, Tensor] | None = None  # entropies, temperatures of the rows seen last

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Raises ValueError, which fails the request alone, for what this form cannot draw."""
        arguments = sampling_params.extra_args or {}
        parameters_of(policy_of(arguments))
        if truncation.from_wire(arguments.get(TRUNCATION_KEY) or PLAIN).active:
            raise ValueError("rollout.model_runner=v2 cannot say which tokens a truncation kept: set it to v1")

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        policy = policy_of(sampling_params.extra_args or {})
        self._host[req_idx] = torch.tensor(parameters_of(policy))
        self._changed = True
        return True  # at T = 1 too: its entropy is recorded

    def apply_staged_writes(self) -> None:
        if self._changed:
            self.table.copy_(self._host)  # pageable memory: the copy has read it when it returns
            self._changed = False

    def apply(self, logits: Tensor, ctx: LogitsContext) -> Tensor:
        self.found = temper_(logits, ctx.expanded_idx_mapping, self.table)
        return logits

    def record(self, tensors: LogprobsTensors) -> LogprobsTensors:
        """The record of tokens whose rows were seen last: [logprob, H, T], and logprob 0 where T = 0."""
        entropies, temperatures = self.found
        drawn = torch.where(temperatures > 0.0, tensors.logprobs[:, 0], 0.0)
        columns = torch.stack((drawn, entropies, temperatures), 1)
        ids = tensors.logprob_token_ids[:, :1].repeat(1, columns.shape[1])
        return tensors._replace(logprob_token_ids=ids, logprobs=columns)


PLAIN = truncation.to_wire(truncation.Truncation())


def policy_of(arguments: dict[str, Any]) -> TemperaturePolicy:
    """T = 1 for a request that is not ours, e.g. vLLM's warm-up."""
    wire = arguments.get(POLICY_KEY)
    return from_wire(wire) if wire else Fixed()


class RecordingSampler(Sampler):
    """vLLM's sampler, whose state it shares, with our record in place of the most likely tokens."""

    def __init__(self, replaced: Sampler, temperatures: Temperatures) -> None:
        self.__dict__.update(replaced.__dict__)
        self.temperatures = temperatures

    def get_logprobs_dims(self, *arguments: Any, **named: Any) -> tuple[int, int] | None:
        """No top-k over the vocabulary: a request that asks for logprobs gets the record."""
        return (0, 0) if super().get_logprobs_dims(*arguments, **named) is not None else None

    def __call__(self, logits: Tensor, input_batch: InputBatch) -> SamplerOutput:
        output = super().__call__(logits, input_batch)
        if output.logprobs_tensors is not None:
            output.logprobs_tensors = self.temperatures.record(output.logprobs_tensors)
        return output


class RecordingVerifier(RejectionSampler):
    """vLLM's rejection sampler with our record; it verifies in chunks, and each chunk was the last one processed."""

    def __init__(self, replaced: RejectionSampler, sampler: RecordingSampler) -> None:
        self.__dict__.update(replaced.__dict__)
        self.sampler = sampler

    def _get_logprobs_tensors(self, *arguments: Any) -> LogprobsTensors | None:
        *before, wanted = arguments
        tensors = super()._get_logprobs_tensors(*before, NO_LOGPROBS if wanted == NO_LOGPROBS else 0)
        return tensors if tensors is None else self.sampler.temperatures.record(tensors)


def install(runner: Any) -> None:
    """Put the record into `runner`, a Model Runner V2 with its model loaded, and our temperature before its drafter."""
    if runner.sampler is None:  # not the last stage of a pipeline: nothing is drawn here
        return
    [temperatures] = [one for one in runner.sampler.logits_processors if isinstance(one, Temperatures)]
    runner.sampler = RecordingSampler(runner.sampler, temperatures)
    if runner.rejection_sampler is not None:
        runner.rejection_sampler = RecordingVerifier(runner.rejection_sampler, runner.sampler)
    speculator = getattr(runner, "speculator", None)
    if getattr(speculator, "draft_logits", None) is not None:
        temper_drafts(speculator, temperatures)


def temper_drafts(speculator: Any, temperatures: Temperatures) -> None:
    """Let the drafter draw at the temperature that the request's policy gives its own distribution.

    `sample_draft` knows whose rows they are, `compute_draft_logits`, called by it, has the logits: what it returns is
    drawn from and cached for the verifier. Both run inside the drafter's CUDA graph; every address is a lasting one.
    """
    sample, logits_of = speculator.sample_draft, speculator.compute_draft_logits
    requests: list[Tensor] = []

    def sample_draft(hidden: Tensor, positions: Tensor, idx_mapping: Tensor, *arguments: Any, **named: Any) -> Tensor:
        requests[:] = [idx_mapping]
        return sample(hidden, positions, idx_mapping, *arguments, **named)

    def compute_draft_logits(hidden: Tensor, step: int) -> Tensor:
        logits = logits_of(hidden, step)
        temper_(logits, requests[0], temperatures.table)
        return logits

    speculator.sample_draft, speculator.compute_draft_logits = sample_draft, compute_draft_logits


class TemperWorkerV2(WeightReceiver, Worker):
    """vLLM's GPU worker with our record in its Model Runner V2 and our weight updates."""

    def load_model(self, *arguments: Any, **named: Any) -> None:
        super().load_model(*arguments, **named)
        install(self.model_runner)

    def why_not_learned(self) -> str:
        """See `TemperWorker`."""
        return "the temperature head is installed in vLLM's model runner V1 alone: set rollout.model_runner=v1"
