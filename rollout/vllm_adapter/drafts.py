"""Drafts inside vLLM: drawn at the temperature that the request's own policy gives the drafter's distribution.

    drafter's logits -> Rows (rows.py, as for the target) -> draft token, and q, kept until the draft is verified

Any q is exact as long as the verifier is told the q that was drawn from; a q treated like the target is close to it
too. Seams of vLLM 0.32 (V1 runner): `_sample_from_logits` of the drafters that run a model, and the runner's
`_get_spec_decode_draft_probs`, which gives up the q of a whole batch when that of one request is lost.
Check: tests/rollout/test_speculation_in_vllm.py.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from vllm.v1.spec_decode.metadata import SpecDecodeMetadata

from rollout.draw.categorical import draw, uniforms
from rollout.vllm_adapter.rows import RowRules


def install(runner: Any, rules: RowRules) -> None:
    """Make the runner's drafter draw by `rules`, and the runner hand over the distributions of all drafts."""
    drafter = runner.drafter
    if getattr(drafter, "_enable_probabilistic_draft_probs", False):

        def sample(logits: Tensor, sampling_metadata: Any) -> tuple[Tensor, Tensor]:
            probabilities = rules.rows(logits.to(torch.float32)).probabilities
            return draw(probabilities, uniforms(len(logits), device=logits.device)), probabilities

        drafter._sample_from_logits = sample
    runner._get_spec_decode_draft_probs = lambda metadata: draft_probabilities(runner, metadata)


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
