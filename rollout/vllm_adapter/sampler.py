"""The draw of a token inside vLLM's V1 sampler: temperature from entropy, and the record of how it was drawn.

    logits -> penalties, masks (vLLM) -> Rows (rows.py) -> one token a row -> [logprob, H, T] per row

Seam: `Sampler.forward` of vLLM 0.32 (V1 model runner, the only one on CPU; on a GPU with VLLM_USE_V2_MODEL_RUNNER=0).
The record travels where vLLM ships logprobs, in three columns: requests ask for `logprobs=2` and get, instead of the
two most likely tokens, the entropy and the temperature. Check: tests/rollout/test_draw_in_vllm.py.
"""

import torch
from torch import Tensor
from vllm.v1.outputs import LogprobsTensors, SamplerOutput
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.sample.sampler import Sampler

from rollout.draw.categorical import draw, uniforms
from rollout.vllm_adapter.rows import RowRules, Rows

RECORD_COLUMNS = 3  # logprob, entropy, temperature


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
        """logits [rows, vocab] -> one token a row, with its [logprob, entropy, temperature]."""
        logits = self.apply_logits_processors(logits.to(torch.float32), sampling_metadata, predict_bonus_token)
        rows = self._rules.rows(logits)
        tokens = draw(rows.probabilities, uniforms(len(logits), device=logits.device))
        wanted = sampling_metadata.max_num_logprobs is not None
        return SamplerOutput(
            sampled_token_ids=tokens.to(torch.int32).unsqueeze(-1),
            logprobs_tensors=record(rows, torch.arange(len(tokens), device=tokens.device), tokens) if wanted else None,
        )


def record(rows: Rows, indices: Tensor, tokens: Tensor) -> LogprobsTensors:
    """The record of `tokens` [n], each drawn from the row of `indices` [n] (both int64)."""
    drawn = rows.probabilities[indices, tokens].log()
    return LogprobsTensors(
        tokens.to(torch.int32).unsqueeze(-1).expand(-1, RECORD_COLUMNS),
        torch.stack((drawn, rows.entropies[indices], rows.temperatures[indices]), 1),
        torch.zeros(len(tokens), dtype=torch.int32, device=tokens.device),
    )
