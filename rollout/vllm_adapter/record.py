"""vLLM output -> Rollout: the one place where the record of a draw is built."""

from collections.abc import Callable, Sequence

import numpy as np
from vllm.outputs import CompletionOutput

from rollout.messages import FinishReason, GroupRequest, Rollout, VersionSpan
from rollout.vllm_adapter.sampler import RECORD_COLUMNS

_FINISH = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH, "abort": FinishReason.ABORT}


def rollout_of(
    output: CompletionOutput,
    request: GroupRequest,
    index: int,
    decode: Callable[[Sequence[int]], str],
    seconds: float,
) -> Rollout:
    """One finished completion as a Rollout. `decode` turns token ids into text."""
    response_ids = np.asarray(output.token_ids, np.int32)
    columns = np.asarray(output.logprobs.logprobs if len(response_ids) else [], np.float32)
    drafts = output.spec_decode_metrics
    logprobs, entropies, temperatures = columns.reshape(-1, RECORD_COLUMNS).T.copy()
    return Rollout(
        group_id=request.group_id,
        index=index,
        prompt_ids=request.prompt_ids,
        response_ids=response_ids,
        # vLLM reports the logprob at T = 1 for a greedy token; what was sampled from is a point mass.
        sampler_logprobs=np.where(temperatures > 0, logprobs, np.float32(0.0)),
        temperatures=temperatures,
        entropies=entropies,
        spans=tuple(
            VersionSpan(version=int(span.version), start=span.start, end=span.end)
            for span in (output.weight_versions or ())
        ),
        text=decode(response_ids.tolist()),
        finish_reason=_FINISH[output.finish_reason],
        drafted_tokens=drafts.num_draft_tokens if drafts else 0,
        accepted_histogram=tuple(drafts.histogram) if drafts else (),
        seconds=seconds,
    )
