"""Plain mixtures of LoRA experts, gated per token or by one learned mix per layer, alike or by depth (HiLo)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from learner.adapters.adapter import layer_index, positive
from learner.adapters.routed import (
    ExpertsLinear,
    Routed,
    RouterStats,
    at_most,
    fan_in_uniform_,
    router_logits,
)


@dataclass(frozen=True, kw_only=True)
class HiLo:
    """How many experts of which rank a layer gets: few and small below, many and large above.

    Rule    `groups` equal groups of depth g = 0, 1, ...: rank and number of experts rise linearly from `least_*` to
            `most_*`; min(top_k, experts) of them are active.
    Source  HiLo, arXiv:2502.03884, grade B-recon: the ranks 2, 4, 6, 8 are as reported by third parties, the numbers of
            experts are unverified. Never quote results of this as the paper's.
    Traps   trained and active parameters both change: report them beside any result.
    """

    groups: int = 4
    least_rank: int = 2
    most_rank: int = 8
    least_experts: int = 2
    most_experts: int = 8
    top_k: int = 2

    def __post_init__(self) -> None:
        for name in ("groups", "least_rank", "least_experts", "top_k"):
            if getattr(self, name) < 1:
                raise ValueError(f"learner.adapter.allocation.{name} is at least 1, got {getattr(self, name)}")
        for kind in ("rank", "experts"):
            if getattr(self, f"most_{kind}") < getattr(self, f"least_{kind}"):
                raise ValueError(f"learner.adapter.allocation.most_{kind} is at least least_{kind}")

    def __call__(self, layer: int, depth: int) -> tuple[int, int, int]:
        """(experts, rank, active ones) of `layer`, 0-based, of `depth`."""
        at = (layer * self.groups // depth) / max(1, self.groups - 1)
        experts = round(self.least_experts + (self.most_experts - self.least_experts) * at)
        return experts, round(self.least_rank + (self.most_rank - self.least_rank) * at), min(self.top_k, experts)


@dataclass(frozen=True, kw_only=True)
class LoraMoe(Routed):
    """Several LoRA experts on one layer, added up with softmax weights.

    Rule    y = W x + scaling * sum_e g_e B_e A_e x; "token": g = softmax(W_g x), the `top_k` largest kept and divided
            by their sum; "static": g = softmax of learned numbers, the same for all tokens, all experts active
    Source  the common form of LoRA mixtures, K; "static" is ours: it is the one that is a weight matrix, a LoRA of rank
            E * rank, which the engines merge.
    Units   scaling: alpha / rank of each expert, the same whatever the rank.
    Traps   `top_k` = `experts` is dense. With `allocation` experts, rank and top_k are its own.
    """

    method: ClassVar[str] = "LoraMoe with routing=token"
    experts: int = 4
    rank: int = 8
    top_k: int = 2
    scaling: float = 2.0
    routing: Literal["token", "static"] = "token"
    allocation: HiLo | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "experts", "rank", "scaling")
        at_most(self, "top_k", self.experts, "experts")
        if self.routing not in ("token", "static"):
            raise ValueError(f"learner.adapter.routing is 'token' or 'static', got {self.routing!r}")

    @property
    def obstacle(self) -> str:
        return "" if self.routing == "static" else f"{super().obstacle}, or routing=static"

    def layer(self, name: str, base: nn.Linear, depth: int) -> "LoraMoeLinear":
        experts, rank, top_k = self.experts, self.rank, self.top_k
        if self.allocation is not None:
            experts, rank, top_k = self.allocation(layer_index(name), depth)
        shape = {"experts": experts, "rank": rank, "scaling": self.scaling, "keeps_outputs": self.keeps_outputs}
        return LoraMoeLinear(base, top_k=None if self.routing == "static" else top_k, **shape)


class LoraMoeLinear(ExpertsLinear):
    """`top_k` None: one mix for all tokens."""

    def __init__(self, base: nn.Linear, *, top_k: int | None, **shape) -> None:
        super().__init__(base, **shape)
        self.top_k = top_k
        if top_k is None:
            self.router = self.trainable(self.experts)
        else:
            self.router = self.trainable(self.experts, base.in_features)
            fan_in_uniform_(self.router)

    def delta(self, x: Tensor) -> tuple[Tensor, RouterStats]:
        if self.top_k is None:
            probs = weights = self.router.float().softmax(0).expand(len(x), -1)
        else:
            probs = router_logits(x, self.router).softmax(-1)
            weights = largest(probs, self.top_k)
        states = self.states(x)
        return self.mixed(states, weights), self.recorded(probs, weights, states)

    @torch.no_grad()
    def factors(self, path: str) -> tuple[Tensor, Tensor]:
        if self.top_k is not None:
            return super().factors(path)
        weights = (self.scaling * self.router.float().softmax(0)).to(self.experts_B.dtype)
        return self.experts_A.flatten(0, 1), (self.experts_B * weights[:, None]).flatten(1)


def largest(probs: Tensor, count: int) -> Tensor:
    """[row, expert]: the `count` largest of each row divided by their sum, 0 for the others."""
    values, places = probs.topk(count, dim=-1)
    return torch.zeros_like(probs).scatter(-1, places, values / values.sum(-1, keepdim=True))
