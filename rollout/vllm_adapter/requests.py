"""GroupRequest -> the vLLM requests of its samples."""

from collections.abc import Sequence

from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind

from rollout.draw import truncation
from rollout.draw.temperature import Fixed, to_wire
from rollout.errors import RequestError
from rollout.messages import GroupRequest
from rollout.vllm_adapter.rows import POLICY_KEY, TRUNCATION_KEY
from rollout.vllm_adapter.sampler import RECORD_COLUMNS


def sampling_params(request: GroupRequest, stop_token_ids: Sequence[int]) -> SamplingParams:
    """Parameters of each of the group's samples. The policy sets the temperature, so vLLM's own stays at 1."""
    greedy = request.temperature == Fixed(temperature=0.0)
    return SamplingParams(
        temperature=0.0 if greedy else 1.0,
        max_tokens=request.max_tokens,
        stop_token_ids=list(stop_token_ids),
        detokenize=False,
        logprobs=RECORD_COLUMNS - 1,
        flat_logprobs=True,
        extra_args={
            POLICY_KEY: to_wire(request.temperature),
            TRUNCATION_KEY: truncation.to_wire(request.truncation),
        },
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def check_length(request: GroupRequest, max_model_len: int) -> None:
    """Raise RequestError where prompt and response cannot fit the engine's context."""
    needed = len(request.prompt_ids) + request.max_tokens
    if needed > max_model_len:
        raise RequestError(
            f"group {request.group_id} needs {needed} tokens ({len(request.prompt_ids)} of prompt and"
            f" {request.max_tokens} of response) but the engine holds {max_model_len}: raise rollout.max_model_len"
            " or lower task.max_tokens"
        )


def request_id(group_id: str, index: int) -> str:
    return f"{group_id}/{index}"
