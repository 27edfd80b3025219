"""A response that was aborted goes on from where it stopped, and its record stays whole.

    Rollout (abort) --rest_of--> request: prompt + the tokens drawn so far --engine--> Rollout --joined--> one Rollout

The old tokens keep the record and the versions they were drawn with; nothing of them is computed again but their keys
and values.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import zip_longest

import numpy as np

from rollout.draw.temperature import TemperaturePolicy
from rollout.errors import RequestError
from rollout.messages import FinishReason, GroupRequest, HeadActions, KeptTokens, Rollout, VersionSpan

Decode = Callable[[Sequence[int]], str]


def not_begun(request: GroupRequest, index: int) -> Rollout:
    """The partial rollout of a response that was aborted before its first token."""
    nothing = np.zeros(0, np.float32)
    return Rollout(
        group_id=request.group_id,
        index=index,
        prompt_ids=request.prompt_ids,
        response_ids=np.zeros(0, np.int32),
        sampler_logprobs=nothing,
        temperatures=nothing,
        entropies=nothing,
        spans=(),
        text="",
        finish_reason=FinishReason.ABORT,
        drafted_tokens=0,
        accepted_histogram=(),
        seconds=0.0,
    )


def rest_of(request: GroupRequest, partial: Rollout) -> GroupRequest:
    """What is still to be drawn of one response: one sample, whose prompt ends with the tokens there are.

    A learned temperature goes on from that of the last token.
    """
    return replace(
        request,
        prompt_ids=(*request.prompt_ids, *partial.response_ids.tolist()),
        max_tokens=request.max_tokens - len(partial.response_ids),
        n=1,
        temperature=_going_on(request.temperature, partial),
        partial=(),
    )


def _going_on(policy: TemperaturePolicy, partial: Rollout) -> TemperaturePolicy:
    """A learned temperature depends on that of the token before."""
    if "hidden" in policy.needs and len(partial.temperatures):
        return policy.going_on(float(partial.temperatures[-1]))
    return policy


def joined(partial: Rollout, rest: Rollout, decode: Decode) -> Rollout:
    """One response of the tokens drawn before and after the break. Raises RequestError where versions would fall."""
    if partial.spans and rest.spans and rest.spans[0].version < partial.spans[-1].version:
        raise RequestError(
            f"rollout {partial.group_id}/{partial.index} has tokens of v{partial.spans[-1].version} and cannot go on"
            f" with v{rest.spans[0].version}: send it to a worker that has the newer weights"
        )
    before, after = len(partial.response_ids), len(rest.response_ids)
    response_ids = np.concatenate((partial.response_ids, rest.response_ids))
    histograms = zip_longest(partial.accepted_histogram, rest.accepted_histogram, fillvalue=0)
    return replace(
        partial,
        group_id=rest.group_id,
        response_ids=response_ids,
        sampler_logprobs=np.concatenate((partial.sampler_logprobs, rest.sampler_logprobs)),
        temperatures=np.concatenate((partial.temperatures, rest.temperatures)),
        entropies=np.concatenate((partial.entropies, rest.entropies)),
        spans=_spans(partial.spans, rest.spans, before),
        text=decode(response_ids.tolist()),
        finish_reason=rest.finish_reason,
        drafted_tokens=partial.drafted_tokens + rest.drafted_tokens,
        accepted_histogram=tuple(one + other for one, other in histograms),
        seconds=partial.seconds + rest.seconds,
        policy_drawn=_policy_drawn(partial.policy_drawn, rest.policy_drawn, before, after),
        kept=_kept(partial.kept, rest.kept, before, after),
        head=_head(partial, rest),
        stale_kv=partial.stale_kv or rest.stale_kv,
    )


def _spans(first: tuple[VersionSpan, ...], second: tuple[VersionSpan, ...], shift: int) -> tuple[VersionSpan, ...]:
    """The second behind the first; two spans of one version that meet become one."""
    moved = [replace(span, start=span.start + shift, end=span.end + shift) for span in second]
    if first and moved and first[-1].version == moved[0].version:
        return (*first[:-1], replace(first[-1], end=moved[0].end), *moved[1:])
    return (*first, *moved)


def _policy_drawn(first: np.ndarray | None, second: np.ndarray | None, before: int, after: int) -> np.ndarray | None:
    if first is None and second is None:
        return None
    return np.concatenate(
        (np.ones(before, bool) if first is None else first, np.ones(after, bool) if second is None else second)
    )


def _kept(first: KeptTokens | None, second: KeptTokens | None, before: int, after: int) -> KeptTokens | None:
    if first is None and second is None:
        return None
    everything = [KeptTokens(ids=np.zeros(0, np.int32), counts=np.zeros(n, np.int32)) for n in (before, after)]
    one, other = first or everything[0], second or everything[1]
    return KeptTokens(ids=np.concatenate((one.ids, other.ids)), counts=np.concatenate((one.counts, other.counts)))


def _head(partial: Rollout, rest: Rollout) -> HeadActions | None:
    first, second = partial.head, rest.head
    if first is None or second is None:
        alone, missing = (first, rest) if second is None else (second, partial)
        if alone is not None and len(missing.response_ids):
            raise RequestError(
                f"rollout {partial.group_id}/{partial.index} was drawn partly with and partly without a temperature"
                " head: go on with the policy it began with"
            )
        return alone
    return HeadActions(
        changes=np.concatenate((first.changes, second.changes)),
        logprobs=np.concatenate((first.logprobs, second.logprobs)),
    )
