"""GroupRequest -> the vLLM requests of its samples."""

from collections.abc import Sequence

from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind

from rollout.draw import truncation
from rollout.draw.temperature import Fixed, from_wire, to_wire
from rollout.errors import RequestError
from rollout.messages import GroupRequest
from rollout.vllm_adapter.head import check_learned
from rollout.vllm_adapter.rows import POLICY_KEY, TRUNCATION_KEY
from rollout.vllm_adapter.sampler import columns_of


def sampling_params(request: GroupRequest, stop_token_ids: Sequence[int]) -> SamplingParams:
    """Parameters of each of the group's samples. The policy sets the temperature, so vLLM's own stays at 1."""
    greedy = request.temperature == Fixed(temperature=0.0)
    return SamplingParams(
        temperature=0.0 if greedy else 1.0,
        max_tokens=request.max_tokens,
        stop_token_ids=list(stop_token_ids),
        detokenize=False,
        logprobs=len(columns_of(request.temperature)) - 1,
        flat_logprobs=True,
        extra_args={
            POLICY_KEY: to_wire(request.temperature),
            TRUNCATION_KEY: truncation.to_wire(request.truncation),
        },
        output_kind=RequestOutputKind.FINAL_ONLY,
        skip_clone=True,  # every sample gets its own; deep copies would be half of what it costs vLLM to take one in
    )


def check_request(request: GroupRequest, max_model_len: int, why_not_learned: str) -> None:
    """Raise RequestError, before anything is drawn, for what would fail inside the engine and take it down.

    `why_not_learned`: the engine's reason for not drawing learned temperatures, empty if it does (worker.py).
    """
    needed = len(request.prompt_ids) + request.max_tokens
    if needed > max_model_len:
        raise RequestError(
            f"group {request.group_id} needs {needed} tokens ({len(request.prompt_ids)} of prompt and"
            f" {request.max_tokens} of response) but the engine holds {max_model_len}: raise rollout.max_model_len"
            " or lower task.max_tokens"
        )
    try:
        from_wire(to_wire(request.temperature))
    except (ValueError, AttributeError, TypeError) as error:
        raise RequestError(
            f"group {request.group_id} asks for a temperature that no engine can draw at, {request.temperature!r}"
            f" ({error}): use a policy of rollout.draw.temperature"
        ) from error
    check_learned(request, why_not_learned)
    try:
        truncation.from_wire(truncation.to_wire(request.truncation))
    except (ValueError, AttributeError, TypeError) as error:
        raise RequestError(
            f"group {request.group_id} asks for a truncation that no engine knows, {request.truncation!r} ({error}):"
            " use one of rollout.draw.truncation"
        ) from error


def request_id(group_id: str, index: int) -> str:
    return f"{group_id}/{index}"
