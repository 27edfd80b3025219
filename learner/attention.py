"""Attention over a forest: the one place where the tokens of a micro-batch meet each other.

All nodes travel through the transformer as a single row [1, nodes], without padding. Here the queries of each segment
are gathered with the keys and values along its path, attended in a few padded blocks of segments of similar length, and
put back into the row. Known to transformers as the attention implementation "temper_forest"; called without a layout
it is ordinary causal attention, which needs no mask for right-padded rows because pads only follow.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from learner.attention_entropy import UNSUPPORTED, Watch, row_entropies
from learner.forest import Forest

NAME = "temper_forest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Segments of similar length, attended together.

    queries  int64 [segment, query] nodes; a pad repeats node 0 and nobody reads its result
    keys     int64 [segment, key] nodes of the path; pads lie behind every real query
    visible  bool [segment, 1, query, key]
    """

    queries: Tensor
    keys: Tensor
    visible: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where each node is attended: `slots` int64 [node] is its place in the concatenated results of all blocks."""

    blocks: tuple[Block, ...]
    slots: Tensor


def layout_of(forest: Forest, device: torch.device) -> Layout:
    """Put segments whose lengths lie within a factor of two into one block."""
    lengths = np.array([len(forest.paths[index]) - start for index, start in forest.segments])
    size_class = np.ceil(np.log2(lengths)).astype(int)
    first_node = np.concatenate([[0], lengths.cumsum()[:-1]])
    slots = np.empty(len(forest), np.int64)
    blocks = []
    used = 0
    for size in np.unique(size_class):
        members = np.flatnonzero(size_class == size)
        paths = [forest.paths[forest.segments[member][0]] for member in members]
        starts = np.array([forest.segments[member][1] for member in members])
        width, depth = lengths[members].max(), max(map(len, paths))
        queries = np.zeros((len(members), width), np.int64)
        keys = np.zeros((len(members), depth), np.int64)
        for row, (member, path) in enumerate(zip(members, paths, strict=True)):
            length = lengths[member]
            nodes = first_node[member] + np.arange(length)
            queries[row, :length] = nodes
            keys[row, : len(path)] = path
            slots[nodes] = used + row * width + np.arange(length)
        used += len(members) * width
        reach = starts[:, None] + np.arange(width)  # [segment, query] position of the query on its path
        visible = np.arange(depth) <= reach[:, :, None]
        blocks.append(
            Block(
                queries=torch.from_numpy(queries).to(device),
                keys=torch.from_numpy(keys).to(device),
                visible=torch.from_numpy(visible).unsqueeze(1).to(device),
            )
        )
    return Layout(blocks=tuple(blocks), slots=torch.from_numpy(slots).to(device))


def forest_attention(
    module: nn.Module,
    query: Tensor,  # [batch, head, token, channel]
    key: Tensor,  # [batch, key head, token, channel]
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    layout: Layout | None = None,
    sliding_window: int | None = None,
    watch: Watch | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """What transformers calls; returns [batch, token, head, channel].

    Raises NotImplementedError for arguments that change the result and are not known here: such a model is evaluated in
    the padded layout, by the attention transformers chooses for it.
    """
    used = [name for name in UNSUPPORTED if kwargs.get(name) is not None]
    if used or sliding_window is not None or attention_mask is not None:
        raise NotImplementedError(f"{NAME} attention of {type(module).__name__} with {used or 'a window or mask'}")
    if layout is None:
        out = F.scaled_dot_product_attention(query, key, value, scale=scaling, is_causal=True, enable_gqa=True)
        return out.transpose(1, 2).contiguous(), None
    heads, channels = query.shape[1], value.shape[-1]
    query, key, value = (
        tensor[0].transpose(0, 1).flatten(1) for tensor in (query, key, value)
    )  # [node, head * channel]
    if watch is not None and watch.wants(module):
        entropies = [_entropies(block, query, key, heads, scaling) for block in layout.blocks]
        watch.fill(module, torch.cat(entropies).index_select(0, layout.slots))
    results = [_attend(block, query, key, value, heads, scaling) for block in layout.blocks]
    out = torch.cat(results).index_select(0, layout.slots)
    return out.view(1, -1, heads, channels), None


def _attend(block: Block, query: Tensor, key: Tensor, value: Tensor, heads: int, scaling: float | None) -> Tensor:
    key_heads = key.shape[1] // (query.shape[1] // heads)
    q, k = _gathered(query, block.queries, heads), _gathered(key, block.keys, key_heads)
    v = _gathered(value, block.keys, key_heads)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=block.visible, scale=scaling, enable_gqa=heads != key_heads)
    return out.transpose(1, 2).flatten(2).flatten(0, 1)  # [segment * query, head * channel]


@torch.no_grad()
def _entropies(block: Block, query: Tensor, key: Tensor, heads: int, scaling: float | None) -> Tensor:
    """float32 [segment * query]."""
    key_heads = key.shape[1] // (query.shape[1] // heads)
    q, k = _gathered(query, block.queries, heads), _gathered(key, block.keys, key_heads)
    return row_entropies(q, k, block.visible, scaling).flatten()


def _gathered(nodes: Tensor, chosen: Tensor, heads: int) -> Tensor:
    """[segment, head, token, channel] of [node, head * channel]."""
    return nodes.index_select(0, chosen.flatten()).view(*chosen.shape, heads, -1).transpose(1, 2)


def register() -> None:
    """Make the implementation known to transformers, under NAME."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, forest_attention)
