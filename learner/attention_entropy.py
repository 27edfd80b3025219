"""How widely the positions of one layer look: entropies of attention rows, computed while the layer attends.

    Policy --Watch--> the model's keyword arguments --> attention of every layer; the watched one fills it in --> Policy

Forest attention (learner/attention.py) asks here block by block. In the padded layout the attention that transformers
would use is wrapped, under the name "temper_padded". Only rows averaged over heads are kept, and of [head, query, key]
never more than LIMIT scores at a time.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

PADDED = "temper_padded"
# Arguments of attention implementations that change the row and are not known here.
UNSUPPORTED = ("softcap", "s_aux", "position_bias")
LIMIT = 2**22  # scores at a time: 16 MiB, small beside a layer's activations and large enough to keep cores busy


class Watch:
    """What the attention of some layers looks like in one forward pass.

    `found`: layer -> float32 [position], in the order of the transformer's flattened output.
    """

    def __init__(self, layers: Iterable[int]) -> None:
        self.layers = frozenset(layers)
        self.found: dict[int, Tensor] = {}

    def wants(self, module: nn.Module) -> bool:
        """Whether this is a watched layer; once, for activation checkpointing attends again on the way back."""
        layer = getattr(module, "layer_idx", None)
        return layer in self.layers and layer not in self.found

    def fill(self, module: nn.Module, entropies: Tensor) -> None:
        self.found[module.layer_idx] = entropies


@torch.no_grad()
def row_entropies(query: Tensor, key: Tensor, visible: Tensor | None, scaling: float | None) -> Tensor:
    """float32 [row, query]: entropy of the attention averaged over heads, over ln of how many positions are visible.

    0 where only one is. `query` [row, head, query, channel], `key` [row, key head, key, channel]; `visible` bool
    [row, 1, query, key], None for causal attention.
    """
    rows, heads, width, channels = query.shape
    key_heads, depth = key.shape[1:3]
    scale = channels**-0.5 if scaling is None else scaling
    if visible is None:
        visible = torch.ones(1, 1, width, depth, dtype=torch.bool, device=query.device).tril()
    visible = visible.expand(rows, 1, width, depth)
    query = query.float().reshape(rows, key_heads, heads // key_heads, width, channels)
    key = key.float().transpose(-1, -2).unsqueeze(2)  # [row, key head, 1, channel, key]
    some_rows = max(1, LIMIT // (heads * width * depth))
    some_queries = max(1, LIMIT // (heads * depth)) if some_rows == 1 else width
    found = torch.empty(rows, width, device=query.device)
    for row in range(0, rows, some_rows):
        for start in range(0, width, some_queries):
            part = slice(row, row + some_rows), slice(start, start + some_queries)
            seen = visible[part[0], :, part[1]]
            scores = query[part[0], :, :, part[1]] @ key[part[0]] * scale
            mean = scores.masked_fill_(~seen.unsqueeze(2), -torch.inf).softmax(-1).mean((1, 2))  # [row, query, key]
            count = seen[:, 0].sum(-1)
            entropy = -torch.xlogy(mean, mean).sum(-1)
            found[part] = torch.where(count > 1, entropy / count.clamp_min(2).log(), 0.0)
    return found


def padded_attention(
    module: nn.Module,
    query: Tensor,  # [batch, head, token, channel]
    key: Tensor,  # [batch, key head, token, channel]
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    watch: Watch | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """What transformers calls in the padded layout. Raises NotImplementedError, see UNSUPPORTED."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if watch is not None and watch.wants(module):
        used = [name for name in UNSUPPORTED if kwargs.get(name) is not None]
        if used or (attention_mask is not None and attention_mask.dtype != torch.bool):
            raise NotImplementedError(f"attention of {type(module).__name__} with {used or 'a mask of numbers'}")
        watch.fill(module, row_entropies(query, key, attention_mask, scaling).flatten())
    return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)


def register() -> None:
    """Make the wrapped implementation known to transformers, under PADDED, with the masks of the wrapped one."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(PADDED, padded_attention)
    AttentionMaskInterface.register(PADDED, sdpa_mask)
