"""Plain LoRA, through peft: W x + scaling * B A x, only A and B trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from learner.adapters.adapter import Adapter, positive

# What peft calls them. Its others (PiSSA, OLoRA, EVA, ...) change the base, which the engines keep as it is.
INITS = {"kaiming": True, "gaussian": "gaussian", "orthogonal": "orthogonal"}


@dataclass(frozen=True, kw_only=True)
class Lora(Adapter):
    """A low-rank addition to linear layers.

    Rule    y = W x + s B A dropout(x), A [rank, in], B [out, rank], s = alpha / rank (alpha / sqrt(rank) with
            `rank_stabilised`)
    Source  LoRA, arXiv:2106.09685; rsLoRA, arXiv:2312.03732, K. Rank 16 and alpha 32 are common choices.
    Units   dropout: fraction of the inputs of A; it acts only where a gradient is taken.
    Traps   learning rates are 10 to 100 times those of full training. With dropout the trained log-probability is not
            the one of the policy that draws: mismatch/kl shows the difference. Orthogonal starts with B A = 0 only up
            to rounding, which is much in bfloat16.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    init: Literal["kaiming", "gaussian", "orthogonal"] = "kaiming"  # of A; B is 0, or orthogonal to it
    rank_stabilised: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "rank", "alpha")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"learner.adapter.dropout is in [0, 1), got {self.dropout}")
        if self.init not in INITS:
            raise ValueError(f"learner.adapter.init is one of {', '.join(INITS)}, got {self.init!r}")
        if self.init == "orthogonal" and self.rank % 2:
            raise ValueError(f"learner.adapter.init=orthogonal takes an even rank, got {self.rank}")

    def install(self, model: nn.Module, layers: Sequence[str]) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        inject_adapter_in_model(
            LoraConfig(
                r=self.rank,
                lora_alpha=self.alpha,
                use_rslora=self.rank_stabilised,
                target_modules=list(layers),
                init_lora_weights=INITS[self.init],
            ),
            model,
        )
        if self.dropout:
            for layer in map(model.get_submodule, layers):
                for name in layer.lora_dropout:
                    layer.lora_dropout[name] = TrainingDropout(self.dropout)


class TrainingDropout(nn.Module):
    """Dropout wherever a gradient is taken: the policy as a whole stays in evaluation mode, as it draws."""

    def __init__(self, fraction: float) -> None:
        super().__init__()
        self.fraction = fraction

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, self.fraction, training=torch.is_grad_enabled())
