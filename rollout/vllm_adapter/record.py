"""vLLM output -> Rollout: the one place where the record of a draw is built."""

from collections.abc import Callable, Sequence

import numpy as np
from vllm.outputs import CompletionOutput

from rollout.messages import FinishReason, GroupRequest, HeadActions, Rollout, VersionSpan
from rollout.vllm_adapter.kept import kept_tokens, truncates
from rollout.vllm_adapter.sampler import HEAD_RECORD, columns_of

_FINISH = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH, "abort": FinishReason.ABORT}


def rollout_of(
    output: CompletionOutput,
    request: GroupRequest,
    index: int,
    decode: Callable[[Sequence[int]], str],
    seconds: float,
    kv_kept: bool,
) -> Rollout:
    """One finished completion as a Rollout.

    `decode` turns token ids into text; `kv_kept`: weight updates leave the keys and values of running requests alone.
    """
    response_ids = np.asarray(output.token_ids, np.int32)
    names = columns_of(request.temperature)
    values = np.asarray(output.logprobs.logprobs if len(response_ids) else [], np.float32)
    columns = dict(zip(names, values.reshape(-1, len(names)).T.copy(), strict=True))
    drafts = output.spec_decode_metrics
    return Rollout(
        group_id=request.group_id,
        index=index,
        prompt_ids=request.prompt_ids,
        response_ids=response_ids,
        sampler_logprobs=columns["logprob"],
        temperatures=columns["temperature"],
        entropies=columns["entropy"],
        spans=tuple(
            VersionSpan(version=int(span.version), start=span.start, end=span.end)
            for span in (output.weight_versions or ())
        ),
        text=decode(response_ids.tolist()),
        finish_reason=_FINISH[output.finish_reason],
        drafted_tokens=drafts.num_draft_tokens if drafts else 0,
        accepted_histogram=tuple(drafts.histogram) if drafts else (),
        seconds=seconds,
        kept=kept_tokens(output) if truncates(request.temperature, request.truncation) else None,
        head=HeadActions(changes=columns["change"] > 0.5, logprobs=columns["change_logprob"])
        if names == HEAD_RECORD
        else None,
        stale_kv=kv_kept and len(output.weight_versions or ()) > 1,
    )
