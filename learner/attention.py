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

from learner.forest import Forest

NAME = "temper_forest"
# Arguments of attention implementations that change the result and that this one does not know: a model that uses one
# of them is evaluated in the padded layout, by the attention transformers chooses for it.
UNSUPPORTED = ("softcap", "s_aux", "position_bias")


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
    **kwargs: object,
) -> tuple[Tensor, None]:
    """What transformers calls; returns [batch, token, head, channel]. Raises NotImplementedError, see UNSUPPORTED."""
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
    results = [_attend(block, query, key, value, heads, scaling) for block in layout.blocks]
    out = torch.cat(results).index_select(0, layout.slots)
    return out.view(1, -1, heads, channels), None


def _attend(block: Block, query: Tensor, key: Tensor, value: Tensor, heads: int, scaling: float | None) -> Tensor:
    channels = query.shape[1] // heads
    key_heads = key.shape[1] // channels
    rows = len(block.queries)
    q = query.index_select(0, block.queries.flatten()).view(rows, -1, heads, channels).transpose(1, 2)
    k = key.index_select(0, block.keys.flatten()).view(rows, -1, key_heads, channels).transpose(1, 2)
    v = value.index_select(0, block.keys.flatten()).view(rows, k.shape[2], key_heads, -1).transpose(1, 2)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=block.visible, scale=scaling, enable_gqa=heads != key_heads)
    return out.transpose(1, 2).flatten(2).flatten(0, 1)  # [segment * query, head * channel]


def register() -> None:
    """Make the implementation known to transformers, under NAME."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, forest_attention)
