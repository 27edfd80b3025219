"""Verification of drafts inside vLLM's V1 runner: exact under every request's own temperature and truncation.

    logits, K + 1 rows a request -> penalties, masks (vLLM) -> Rows (rows.py) -> verify -> tokens and their record

Seam: the runner's `rejection_sampler`, called with the q that drafts.py kept. Check:
tests/rollout/test_speculation_in_vllm.py.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn
from vllm.v1.outputs import SamplerOutput
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.sample.rejection_sampler import RejectionSampler
from vllm.v1.spec_decode.metadata import SpecDecodeMetadata

from rollout.draw.verify import DraftLayout, random_numbers, verify
from rollout.vllm_adapter.rows import RowRules
from rollout.vllm_adapter.sampler import RecordingSampler, record


class ExactVerifier(nn.Module):
    """In place of vLLM's RejectionSampler, whose processing of penalties and masks it uses."""

    def __init__(self, sampler: RecordingSampler, rules: RowRules) -> None:
        super().__init__()
        self._vllm = RejectionSampler(sampler)
        self._rules = rules

    def forward(
        self,
        metadata: SpecDecodeMetadata,
        draft_probabilities: Tensor | None,
        logits: Tensor,
        sampling_metadata: SamplingMetadata,
    ) -> SamplerOutput:
        """logits [drafts + requests, vocab] -> up to K + 1 tokens a request, -1 behind the last, with their record."""
        logits = self._processed(logits.to(torch.float32), metadata, sampling_metadata)
        counts = metadata.num_draft_tokens
        rows = self._rules.rows(logits, [count + 1 for count in counts])
        layout = DraftLayout.of(counts, logits.device)
        verified = verify(
            rows.probabilities,
            metadata.draft_token_ids.long(),
            draft_probabilities,
            layout,
            random_numbers(layout),
        )
        self._rules.emitted(rows, verified.rows, verified.accepted + 1)
        wanted = sampling_metadata.max_num_logprobs is not None
        return SamplerOutput(
            sampled_token_ids=verified.ids.to(torch.int32),
            logprobs_tensors=record(rows, verified.rows.flatten(), verified.ids.clamp_min(0).flatten())
            if wanted
            else None,
        )

    def _processed(self, logits: Tensor, metadata: SpecDecodeMetadata, sampling_metadata: SamplingMetadata) -> Tensor:
        """With vLLM's penalties and masks, where any request has them: drafts and last rows go separate ways there."""
        if not needs_processing(sampling_metadata):
            return logits
        drafts, last = metadata.target_logits_indices, metadata.bonus_logits_indices
        processed = torch.empty_like(logits)
        processed[drafts] = self._vllm.apply_logits_processors(logits[drafts], sampling_metadata, metadata)
        processed[last] = self._vllm.sampler.apply_logits_processors(
            logits[last], replace(sampling_metadata, max_num_logprobs=None), predict_bonus_token=True
        )
        return processed


def needs_processing(sampling_metadata: SamplingMetadata) -> bool:
    """Whether a request changes its logits before the draw. Ours do not; a server's may."""
    return bool(
        sampling_metadata.bad_words_token_ids
        or not sampling_metadata.no_penalties
        or sampling_metadata.allowed_token_ids_mask is not None
        or sampling_metadata.logitsprocs.non_argmax_invariant
    )
