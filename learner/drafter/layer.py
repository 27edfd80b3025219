"""MiMo's multi-token-prediction layer, unrolled over K drafts exactly as vLLM runs it.

    draft 1   hidden state of the policy at t, embedding of token t+1 --layer--> q of token t+2
    draft j   the layer's own output at t-1,   embedding of token t+1 --layer--> q of token t+2

There is one layer for all K drafts, so unless it is trained on its own outputs the second draft is out of distribution.
Draft j at t attends to what draft 1 saw up to t-j+1 and, after that, to the drafts of its own chain.
Source  mimo_mtp.py and llm_base_proposer.py of vLLM 0.32. Check: tests/learner/drafter/test_drafter.py.
"""

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class MtpLayer(nn.Module):
    """`block` is a decoder layer of the policy's kind, at first a copy of its last one; norms start at 1.

    Parameter names are those of the checkpoint, except for the prefix `block.` (files.py).
    """

    def __init__(self, policy: "PreTrainedModel") -> None:
        super().__init__()
        width = policy.config.hidden_size
        self.token_layernorm, self.hidden_layernorm, self.final_layernorm = (
            copy.deepcopy(policy.base_model.norm) for _ in range(3)
        )
        for norm in (self.token_layernorm, self.hidden_layernorm):
            nn.init.ones_(norm.weight)
        # From the hidden state alone, so that training starts from a drafter that repeats the policy's last layer.
        self.input_proj = nn.Linear(2 * width, width, bias=False)
        with torch.no_grad():
            self.input_proj.weight.copy_(torch.cat([torch.eye(width), torch.eye(width)], 1))
        self.block = copy.deepcopy(policy.base_model.layers[-1])
        self.block.self_attn.layer_idx = 0
        self.requires_grad_(True)

    def unroll(self, hidden: Tensor, embeddings: Tensor, rotary: tuple[Tensor, Tensor], drafts: int) -> list[Tensor]:
        """The layer's outputs [seq, tok, channel] at draft 1 .. drafts; those of draft j are meaningful from t = j - 1.

        hidden      [seq, tok, channel], of the policy at t, before its final norm
        embeddings  [seq, tok, channel], of token t + 1
        rotary      cos and sin of positions 0 .. tok - 1
        """
        from transformers import DynamicCache

        length = hidden.shape[1]
        embeddings = embeddings.index_fill(1, torch.zeros(1, dtype=torch.int64, device=hidden.device), 0.0)
        tokens, seen, outputs = self.token_layernorm(embeddings), DynamicCache(), []
        for draft in range(drafts):
            mixed = self.input_proj(torch.cat([self.hidden_layernorm(hidden), tokens], -1))
            mask = attended(length, draft, hidden.device)[None, None]
            out = self.block(mixed, attention_mask=mask, position_embeddings=rotary, past_key_values=seen)
            outputs.append(self.final_layernorm(out))
            hidden = outputs[-1].roll(1, 1)
        return outputs


def attended(length: int, draft: int, device: torch.device) -> Tensor:
    """bool [length, (draft + 1) * length]: what draft number `draft` (from 0) at t sees of the keys of drafts 0, 1, ...

    Of draft 0 everything up to t - draft, of draft i > 0 only t - draft + i: the chain that ends at t.
    """
    at = torch.arange(length, device=device)
    distance = at[None] - at[:, None]
    return torch.cat([distance <= -draft] + [distance == i - draft for i in range(1, draft + 1)], 1)
