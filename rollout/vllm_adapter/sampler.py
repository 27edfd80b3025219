"""The draw of a token inside vLLM's V1 sampler: from the distribution of its row, and the record of how it was drawn.

    logits -> penalties, masks (vLLM) -> Rows (rows.py) -> one token a row -> its record

Seam: `Sampler.forward` of vLLM 0.32 (V1 model runner, the only one on CPU; on a GPU with VLLM_USE_V2_MODEL_RUNNER=0).
The record travels where vLLM ships logprobs: a request asks for as many of them as its record has columns and gets,
instead of the most likely tokens, those columns. Check: tests/rollout/test_exactness_in_vllm.py.
"""

import torch
from torch import Tensor
from vllm.v1.outputs import LogprobsTensors, SamplerOutput
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.sample.sampler import Sampler

from rollout.draw.categorical import draw, uniforms
from rollout.draw.temperature import TemperaturePolicy
from rollout.vllm_adapter.rows import RowRules, Rows

RECORD = ("logprob", "entropy", "temperature")  # the columns of every token
HEAD_RECORD = (*RECORD, "change", "change_logprob")  # of a token whose temperature the learned head drew


def columns_of(policy: TemperaturePolicy) -> tuple[str, ...]:
    """The record of a token drawn by `policy`."""
    return HEAD_RECORD if "hidden" in policy.needs else RECORD


class RecordingSampler(Sampler):
    """vLLM's sampler with one distribution per row: the one its own request asks for."""

    def __init__(self, replaced: Sampler, rules: RowRules) -> None:
        super().__init__(replaced.logprobs_mode, replaced.use_fp64_gumbel)
        self._rules = rules

    def forward(
        self,
        logits: Tensor,
        sampling_metadata: SamplingMetadata,
        predict_bonus_token: bool = False,
        logprobs_mode_override: str | None = None,
    ) -> SamplerOutput:
        """logits [rows, vocab] -> one token a row, with its record."""
        logits = self.apply_logits_processors(logits.to(torch.float32), sampling_metadata, predict_bonus_token)
        rows = self._rules.rows(logits)
        tokens = draw(rows.probabilities, uniforms(len(logits), device=logits.device))
        at = torch.arange(len(tokens), device=tokens.device)
        self._rules.emitted(rows, at.unsqueeze(-1))
        wanted = sampling_metadata.max_num_logprobs is not None
        return SamplerOutput(
            sampled_token_ids=tokens.to(torch.int32).unsqueeze(-1),
            logprobs_tensors=record(rows, at, tokens) if wanted else None,
        )


def record(rows: Rows, indices: Tensor, tokens: Tensor) -> LogprobsTensors:
    """The record of `tokens` [n], each drawn from the row of `indices` [n] (both int64).

    Where any request asks the head, all get its columns; vLLM gives each request as many as it asked for.
    """
    columns = [rows.probabilities[indices, tokens].log(), rows.entropies[indices], rows.temperatures[indices]]
    if rows.actions is not None:
        columns += [rows.actions.changes[indices].float(), rows.actions.logprobs[indices]]
    return LogprobsTensors(
        tokens.to(torch.int32).unsqueeze(-1).expand(-1, len(columns)),
        torch.stack(columns, 1),
        torch.zeros(len(tokens), dtype=torch.int32, device=tokens.device),
    )
