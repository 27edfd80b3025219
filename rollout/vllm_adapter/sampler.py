"""The draw of a token inside vLLM's V1 sampler: temperature from entropy, and the record of how it was drawn.

    logits -> penalties, masks (vLLM) -> H, T = policy(H) -> logits / T -> draw -> [logprob, H, T] per row

Seam: `Sampler.forward` of vLLM 0.32 (V1 model runner, the only one on CPU; on a GPU with VLLM_USE_V2_MODEL_RUNNER=0).
The record travels where vLLM ships logprobs, in three columns: requests ask for `logprobs=2` and get, instead of the
two most likely tokens, the entropy and the temperature. Check: tests/rollout/test_draw_in_vllm.py.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from vllm.v1.outputs import LogprobsTensors, SamplerOutput
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.sample.sampler import Sampler

from rollout.draw.distribution import entropy
from rollout.draw.temperature import Fixed, TemperaturePolicy, from_wire

POLICY_KEY = "temperature_policy"  # in SamplingParams.extra_args: the policy as plain values
RECORD_COLUMNS = 3  # logprob, entropy, temperature
_AS_GIVEN = Fixed()  # rows that did not come through `requests.py`, e.g. vLLM's own warm-up


@lru_cache(maxsize=256)
def _policy(wire: tuple[tuple[str, Any], ...]) -> TemperaturePolicy:
    return from_wire(dict(wire))


class RecordingSampler(Sampler):
    """vLLM's sampler with one temperature per row. Greedy rows (temperature 0) are drawn and recorded at T = 0."""

    def __init__(self, runner: Any) -> None:
        super().__init__(runner.sampler.logprobs_mode, runner.sampler.use_fp64_gumbel)
        self._runner = runner

    def forward(
        self,
        logits: Tensor,
        sampling_metadata: SamplingMetadata,
        predict_bonus_token: bool = False,
        logprobs_mode_override: str | None = None,
    ) -> SamplerOutput:
        """logits [rows, vocab] -> one token a row, with its [logprob, entropy, temperature]."""
        logits = logits.to(torch.float32)
        logits = self.apply_logits_processors(logits, sampling_metadata, predict_bonus_token)
        entropies = entropy(logits)
        temperatures = self.row_temperatures(entropies)
        logits.div_(torch.where(temperatures > 0, temperatures, 1.0).unsqueeze(1))
        sampled, logprobs = self.sample(logits, sampling_metadata)
        if logprobs is None:  # no request of this batch asked for a record
            return SamplerOutput(sampled_token_ids=sampled.to(torch.int32).unsqueeze(-1), logprobs_tensors=None)
        sampled = sampled.long()
        drawn = logprobs.gather(-1, sampled.unsqueeze(-1)).squeeze(-1)
        record = torch.stack((drawn, entropies, temperatures), 1)
        tokens = sampled.to(torch.int32).unsqueeze(-1)
        return SamplerOutput(
            sampled_token_ids=tokens,
            logprobs_tensors=LogprobsTensors(
                tokens.expand(-1, RECORD_COLUMNS), record, torch.zeros(len(sampled), dtype=torch.int32)
            ),
        )

    def row_temperatures(self, entropies: Tensor) -> Tensor:
        """[rows] -> [rows]: each request's own policy at its row; rows of one policy are computed together."""
        by_policy: dict[TemperaturePolicy, list[int]] = {}
        for row, request_id in enumerate(self._runner.input_batch.req_ids[: len(entropies)]):
            wire = (self._runner.requests[request_id].sampling_params.extra_args or {}).get(POLICY_KEY)
            policy = _policy(tuple(sorted(wire.items()))) if wire else _AS_GIVEN
            by_policy.setdefault(policy, []).append(row)
        if len(by_policy) == 1:
            return next(iter(by_policy))(entropies)
        temperatures = torch.ones_like(entropies)
        for policy, rows in by_policy.items():
            index = torch.tensor(rows, device=entropies.device)
            temperatures[index] = policy(entropies[index])
        return temperatures
