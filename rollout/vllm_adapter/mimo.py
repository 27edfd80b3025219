"""K drafts of a one-layer MiMo drafter on a CPU, without vLLM's frame around every draft.

    runner, after its draw --MimoDrafter.propose--> K draft tokens a request, and q, where vLLM's proposer leaves them

For a small policy vLLM's own proposer costs more than its model: each draft builds attention metadata and enters a
dozen modules. Here a draft is the twenty kernels that do the work; only rows that are drafted from go through attention
and MLP; nothing is drafted for requests that have just ended. The numbers are those of vLLM's proposer.

Seam of vLLM 0.32: `GPUModelRunner.propose_draft_token_ids`, which is called for whatever this does not cover.
Check: tests/rollout/test_speculation_in_vllm.py.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from vllm.model_executor.models.mimo_mtp import MiMoMTP

Draw = Callable[[Tensor], tuple[Tensor, Tensor | None]]  # logits [rows, vocab] -> tokens int64 [rows], q [rows, vocab]


class MimoDrafter:
    """Proposes for the runner's batch. `draws(requests)` draws for the requests of these indices in this step."""

    def __init__(self, runner: Any, draws: Callable[[list[int]], Draw]) -> None:
        self._runner = runner
        self._draws = draws
        self._vllm = runner.propose_draft_token_ids  # the method this one replaces
        self._arange = torch.arange(runner.max_num_reqs + 1, dtype=torch.int32)
        self._layer: _Layer | None = None

    def covers(self) -> bool:
        """Whether the runner's drafter is what this file can run: plain weights of one MiMo layer, in one process."""
        runner, model = self._runner, getattr(self._runner.drafter, "model", None)
        return (
            isinstance(model, MiMoMTP)
            and len(model.model.mtp_layers) == 1
            and runner.vllm_config.quant_config is None
            and runner.vllm_config.lora_config is None
            and runner.parallel_config.tensor_parallel_size == 1
            and len(runner.drafter.draft_attn_groups) == 1
        )

    def propose(
        self,
        scheduler_output: Any,
        sampled: Tensor,
        sampling_metadata: Any,
        hidden: Tensor,
        sample_hidden: Tensor,
        aux_hidden: Any,
        spec_metadata: Any,
        common: Any,
        slot_mappings: Any,
    ) -> Tensor:
        """int64 [requests, K]. The arguments are the runner's: `sampled` is int32 [requests, any], padded with -1."""
        runner, drafts = self._runner, scheduler_output.num_spec_tokens_to_schedule
        requests = len(sampled)
        half_read = runner.discard_request_mask.np[:requests].any()  # a prompt of which only a part was computed
        if half_read or not self.covers():
            return self._vllm(
                *(scheduler_output, sampled, sampling_metadata, hidden, sample_hidden),
                *(aux_hidden, spec_metadata, common, slot_mappings),
            )
        if self._layer is None or not self._layer.current():
            self._layer = _Layer(runner.drafter)
        layer = self._layer
        alive = self._alive(sampled) if drafts else []
        emitted = (sampled >= 0).sum(1)
        ends = common.query_start_loc[1:] - 1
        if spec_metadata is not None:
            ends = ends - (torch.tensor(spec_metadata.num_draft_tokens) + 1 - emitted)
        rows = common.num_actual_tokens
        following = runner.input_ids.gpu[:rows].long().roll(-1)
        following[ends] = sampled.gather(1, emitted.unsqueeze(1) - 1).squeeze(1).long()
        positions = runner.positions[:rows]
        embedded = layer.embed(following).masked_fill_((positions == 0).unsqueeze(1), 0.0)
        chosen = ends if len(alive) == requests else ends[alive]
        query, residual = layer.keys(embedded, hidden[:rows], positions, common.slot_mapping[:rows])
        drafted = torch.zeros(requests, drafts, dtype=torch.int64)
        runner._draft_probs = runner._draft_prob_req_ids = None
        if not alive:
            return drafted
        query, residual = query.index_select(0, chosen), residual.index_select(0, chosen)
        table = common.block_table_tensor[:requests].index_select(0, torch.tensor(alive))
        ahead = positions[chosen] + torch.arange(drafts).unsqueeze(1)  # [draft, request]
        slots = (
            table.T.gather(0, ahead // layer.block_size) * layer.block_size + ahead % layer.block_size
        ).contiguous()
        lengths = (ahead + 1).int()
        starts = self._arange[: len(alive) + 1]
        draw, tokens, q = self._draws(alive), [], []
        for draft in range(drafts):
            out = layer.attend(query, residual, starts, lengths[draft], table)
            token, distribution = draw(layer.logits(out))
            tokens.append(token)
            q.append(distribution)
            if draft + 1 < drafts:
                query, residual = layer.keys(layer.embed(token), out, ahead[draft + 1], slots[draft + 1])
        drafted[alive] = torch.stack(tokens, 1)
        if q[0] is not None:
            runner._draft_probs = torch.stack(q, 1)
            runner._draft_prob_req_ids = [runner.input_batch.req_ids[index] for index in alive]
        return drafted

    def _alive(self, sampled: Tensor) -> list[int]:
        """Requests that go on after this step's tokens, by index."""
        runner, found = self._runner, []
        for index, emitted in enumerate(sampled.tolist()):
            request = runner.requests[runner.input_batch.req_ids[index]]
            parameters = request.sampling_params
            left = parameters.max_tokens - len(request.output_token_ids) - len(emitted) + emitted.count(-1)
            if left > 0 and parameters.all_stop_token_ids.isdisjoint(emitted):
                found.append(index)
        return found


class _Layer:
    """vLLM's MiMo layer as the kernels it consists of, looked up once for the weights it has."""

    def __init__(self, drafter: Any) -> None:
        model = drafter.model
        (layer,) = model.model.mtp_layers.values()
        block = layer.mtp_block
        attention = block.self_attn
        self._modules = (
            *(model.model.embed_tokens, layer.token_layernorm, layer.hidden_layernorm, layer.input_proj),
            *(block.input_layernorm, attention.qkv_proj, attention.o_proj, block.post_attention_layernorm),
            *(block.mlp.gate_up_proj, block.mlp.down_proj, layer.final_layernorm, model.lm_head),
        )
        self._weights = [module.weight for module in self._modules]
        self._packed = [getattr(module, "cpu_linear", None) for module in self._modules]
        embedding, *self._outer_norms, mix, in_norm, qkv, o, out_norm, up, down, final_norm, head = self._modules
        self._embedding, self._mix = embedding.weight, mix.weight
        self._token_norm, self._hidden_norm = ((norm.weight, norm.variance_epsilon) for norm in self._outer_norms)
        self._in_norm, self._out_norm, self._final_norm = (
            (norm.weight, norm.variance_epsilon) for norm in (in_norm, out_norm, final_norm)
        )
        self._qkv, self._o, self._up, self._down, self._head = (
            partial(linear.cpu_linear, weight=linear.weight, bias=linear.bias) for linear in (qkv, o, up, down, head)
        )
        self._vocab = model.config.vocab_size
        self._shape = attention.num_heads, attention.num_kv_heads, attention.head_dim
        self._split = attention.q_size, attention.kv_size, attention.kv_size
        self._rotary = attention.rotary_emb.cos_sin_cache, attention.rotary_emb.is_neox_style
        cache = attention.attn
        blocks, heads, size, _ = cache.kv_cache.shape
        self._cache = cache.kv_cache.view(blocks, heads, size * 2, -1).chunk(2, dim=2)
        self._isa, self._impl = cache.isa, cache.impl
        self._builder = drafter.draft_attn_groups[0].get_metadata_builder()
        self.block_size = drafter.block_size

    def current(self) -> bool:
        """Whether the weights are still those looked up: an update replaces them."""
        return all(
            module.weight is weight and getattr(module, "cpu_linear", None) is packed
            for module, weight, packed in zip(self._modules, self._weights, self._packed, strict=True)
        )

    def embed(self, ids: Tensor) -> Tensor:
        return functional.embedding(ids, self._embedding)

    def keys(self, embedded: Tensor, hidden: Tensor, positions: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Write the keys and values of all rows; their queries and residual stream."""
        mixed = functional.linear(
            torch.cat([_norm(hidden, self._hidden_norm), _norm(embedded, self._token_norm)], -1), self._mix
        )
        query, key, value = self._qkv(_norm(mixed, self._in_norm)).split(self._split, -1)
        _, heads, width = self._shape
        torch.ops._C.rotary_embedding(positions, query, key, width, *self._rotary)
        torch.ops._C.cpu_attn_reshape_and_cache(
            *(key.view(-1, heads, width), value.view(-1, heads, width), *self._cache, slots, self._isa),
            *(1.0, 1.0, self._impl.kv_cache_dtype),
        )
        return query, mixed

    def attend(self, query: Tensor, residual: Tensor, starts: Tensor, lengths: Tensor, table: Tensor) -> Tensor:
        """Attention of one query a request over `lengths` int32 [requests] keys, and the MLP: the layer's output.

        Overwrites `residual`.
        """
        heads, key_heads, width = self._shape
        window, dtype = self._impl.sliding_window, self._impl.kv_cache_dtype
        plan = torch.ops._C.get_scheduler_metadata(
            *(len(lengths), heads, key_heads, width, lengths, query.dtype, starts, True, window),
            *(self._isa, True, None, dtype),
        )
        query = query.view(-1, heads, width)
        seen = torch.empty(query.shape, dtype=query.dtype)
        torch.ops._C.cpu_attention_with_kv_cache(
            *(query, *self._cache, seen, starts, lengths, self._impl.scale, True, None, window),
            *(table, 0.0, plan, None, None, 1.0, 1.0, dtype),
        )
        gates = self._up(_norm_sum(self._o(seen.flatten(1)), residual, self._out_norm))
        inner = torch.empty(len(gates), gates.shape[1] // 2, dtype=gates.dtype)
        torch.ops._C.silu_and_mul(inner, gates)
        return _norm_sum(self._down(inner), residual, self._final_norm)

    def logits(self, hidden: Tensor) -> Tensor:
        return self._head(hidden)[:, : self._vocab]


def _norm(rows: Tensor, norm: tuple[Tensor, float]) -> Tensor:
    out = torch.empty_like(rows)
    torch.ops._C.rms_norm(out, rows, *norm)
    return out


def _norm_sum(rows: Tensor, residual: Tensor, norm: tuple[Tensor, float]) -> Tensor:
    """residual += rows; rows = the norm of that, and returned."""
    torch.ops._C.fused_add_rms_norm(rows, residual, *norm)
    return rows
