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
    """`block` is a decoder layer of the policy's kind; float32 whatever the policy is, as its optimizer wants it.

    Parameter names are those of the checkpoint, except for the prefix `block.` (files.py). Weights are arbitrary until
    `like_last_layer` or `load_state_dict`.
    """

    def __init__(self, policy: "PreTrainedModel") -> None:
        super().__init__()
        config = copy.deepcopy(policy.config)
        config._attn_implementation = "sdpa"  # with masks of our own, which the policy's implementation may not know
        norm, layer = policy.base_model.norm, policy.base_model.layers[-1]
        self.token_layernorm, self.hidden_layernorm, self.final_layernorm = (
            type(norm)(config.hidden_size, config.rms_norm_eps) for _ in range(3)
        )
        self.input_proj = nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)
        self.block = type(layer)(config, layer_idx=0)
        self.to(policy.device, torch.float32).eval()

    @classmethod
    @torch.no_grad()
    def like_last_layer(cls, policy: "PreTrainedModel") -> "MtpLayer":
        """A drafter that repeats the policy's last layer: what training starts from where there is none yet."""
        layer = cls(policy)
        width = policy.config.hidden_size
        layer.final_layernorm.load_state_dict(policy.base_model.norm.state_dict())
        layer.input_proj.weight.copy_(torch.cat([torch.eye(width), torch.eye(width)], 1))
        layer.block.load_state_dict(policy.base_model.layers[-1].state_dict())
        return layer

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
