"""DynMoLE: a token that its router is unsure about gets all experts, any other as many as it takes."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from learner.adapters.adapter import positive
from learner.adapters.losses import tsallis
from learner.adapters.routed import ExpertsLinear, Routed, RouterStats, at_most, fan_in_uniform_, router_logits

ROUNDING = 1e-6  # a cumulative sum of float32 probabilities may end above 1


@dataclass(frozen=True, kw_only=True)
class DynMole(Routed):
    """LoRA experts chosen by top-p, at least `least`, and all of them where the router's entropy is high.

    Rule    pi = softmax(W_g x); kept: those whose sum with all larger ones is at most top_p, the `least` largest in
            any case, and all where the normalised Tsallis entropy of pi is above `threshold` (never where it is 1);
            y = W x + scaling * sum over kept of pi_e B_e A_e x
    Source  DynMoLE, arXiv:2504.00661, grade A-code (mikecovlee/DynMoLE, by the first author, before the paper): 6
            experts of rank 24, alpha 48, on gate, up and down, losses Balance (soft, all, 1e-3) and TsallisEntropy
            (1e-2). Their dropout of 0.05 is left out.
    Traps   weights are not divided by their sum, so a token just below the threshold gets a smaller update than one
            just above it: see adapter/weight_sum.
    """

    method: ClassVar[str] = "DynMoLE"
    experts: int = 6
    rank: int = 24
    scaling: float = 2.0
    top_p: float = 0.75
    least: int = 2
    threshold: float = 0.9
    q: float = 1.1
    eps: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "experts", "rank", "scaling", "top_p", "q", "eps")
        at_most(self, "least", self.experts, "experts")
        if self.threshold < 0:
            raise ValueError(f"learner.adapter.threshold is at least 0, got {self.threshold}")

    def layer(self, name: str, base: nn.Linear, depth: int) -> "DynMoleLinear":
        return DynMoleLinear(base, self)


class DynMoleLinear(ExpertsLinear):
    """All experts are computed, as in the release; those that are not kept count 0."""

    def __init__(self, base: nn.Linear, config: DynMole) -> None:
        shape = {"experts": config.experts, "rank": config.rank, "scaling": config.scaling}
        super().__init__(base, keeps_outputs=config.keeps_outputs, **shape)
        self.config = config
        self.router = self.trainable(self.experts, base.in_features)
        fan_in_uniform_(self.router)

    def delta(self, x: Tensor) -> tuple[Tensor, RouterStats]:
        probs = router_logits(x, self.router).softmax(-1)
        weights = probs * kept(probs.detach(), self.config)
        states = self.states(x)
        return self.mixed(states, weights), self.recorded(probs, weights, states)


def kept(probs: Tensor, config: DynMole) -> Tensor:
    """bool [row, expert]: what a token's probabilities select."""
    ordered, places = probs.sort(dim=-1, descending=True)
    inside = ordered.cumsum(-1) <= config.top_p + ROUNDING
    inside[:, : config.least] = True
    chosen = torch.zeros_like(inside).scatter(-1, places, inside)
    if config.threshold < 1:
        chosen |= (tsallis(probs, config.q, config.eps) > config.threshold)[:, None]
    return chosen
