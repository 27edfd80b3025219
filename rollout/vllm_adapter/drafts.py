"""Drafts inside vLLM: drawn at the temperature that the request's own policy gives the drafter's distribution.

    drafter's logits -> q, by the row's rule (rows.py) -> draft token, and q, kept until the draft is verified

Any q is exact as long as the verifier is told the q that was drawn from; a q treated like the target is close to it
too. Seams of vLLM 0.32 (V1 runner): `_sample_from_logits` of the drafters that run a model, and the runner's
`_get_spec_decode_draft_probs`, which gives up the q of a whole batch when that of one request is lost.
On a CPU, MiMo's layer is run without vLLM's proposer (mimo.py). Check: tests/rollout/test_speculation_in_vllm.py.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from vllm.platforms import current_platform
from vllm.v1.spec_decode.metadata import SpecDecodeMetadata

from rollout.draw.categorical import draw, uniforms
from rollout.vllm_adapter.rows import RowRules


def install(runner: Any, rules: RowRules) -> None:
    """Make the runner's drafter draw by `rules`, and the runner hand over the distributions of all drafts."""
    drafter = runner.drafter
    certain = not getattr(drafter, "_enable_probabilistic_draft_probs", False)
    if not certain:
        drafter._sample_from_logits = lambda logits, sampling_metadata: drawn(rules.drafting(), logits)
    runner._get_spec_decode_draft_probs = lambda metadata: draft_probabilities(runner, metadata)
    if current_platform.is_cpu():
        from rollout.vllm_adapter.mimo import MimoDrafter

        def draws(requests: list[int]) -> Callable[[Tensor], tuple[Tensor, Tensor | None]]:
            if certain:
                return lambda logits: (logits.argmax(-1), None)
            return partial(drawn, rules.drafting(requests))

        runner.propose_draft_token_ids = MimoDrafter(runner, draws).propose


def drawn(q_of: Callable[[Tensor], Tensor], logits: Tensor) -> tuple[Tensor, Tensor]:
    """Draft tokens int64 [requests], drawn from q_of(logits) [requests, vocab], and that q."""
    q = q_of(logits.to(torch.float32))
    return draw(q, uniforms(len(q), device=q.device)), q


def draft_probabilities(runner: Any, metadata: SpecDecodeMetadata) -> Tensor | None:
    """q [drafts, vocab] of every scheduled draft, or None where all are certain (greedy drafts, n-grams).

    Found by request, as the batch may have changed since the drafts were drawn. A request whose q is lost counts as
    certain of its drafts: judged like that, what is emitted is still exactly p, only fewer drafts pass.
    """
    cached = runner._draft_probs
    counts = metadata.num_draft_tokens
    if cached is None or not sum(counts):
        return None
    requests = runner.input_batch.req_ids[: len(counts)]
    if requests == runner._draft_prob_req_ids and min(counts) == max(counts) == cached.shape[1]:
        return cached.flatten(0, 1)
    row_of = {request: row for row, request in enumerate(runner._draft_prob_req_ids)}
    found, start = [], 0
    for request, count in zip(requests, counts, strict=True):
        row = row_of.get(request)
        if row is None:
            drafts = metadata.draft_token_ids[start : start + count].long()
            found.append(functional.one_hot(drafts, cached.shape[-1]).to(cached.dtype))
        else:
            found.append(cached[row, :count])
        start += count
    return torch.cat(found)
