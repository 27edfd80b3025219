"""SMoRA: one LoRA whose single ranks are the experts."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from learner.adapters.adapter import positive
from learner.adapters.routed import Routed, RoutedLinear, RouterStats, fan_in_uniform_, router_logits

SMALLEST_SUM = 1e-6  # of scores: with logits far below 0 they are all 0 in float32


@dataclass(frozen=True, kw_only=True)
class Smora(Routed):
    """Every block of ranks of a LoRA is an expert that the token may choose.

    Rule    s = sigmoid(W_g x) per block; the `active` ranks with the largest s + b; gate = (s + b) / their sum *
            active; y = W x + alpha / active * B (gate * A x). After each step b += speed * sign(mean count - count), a
            block's count being that of the tokens that chose it: balance without a loss.
    Source  SMoRA, arXiv:2501.15103, grade A-code (StyxXuan/smora). As released, b is part of the gate's value;
            `bias_in_gate` false uses it to choose only, as DeepSeek-V3 does.
    Units   rank, active, block: ranks.  speed: of b per optimizer step.
    Traps   counts are of distinct prefixes, not of repeated ones. b counts whole steps, so it is exact in bfloat16.
            active = rank with equal gates is LoRA.
    """

    method: ClassVar[str] = "SMoRA"
    rank: int = 64
    active: int = 8
    block: int = 1
    alpha: float = 16.0
    speed: float = 1e-5
    bias_in_gate: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "rank", "active", "block", "alpha")
        if self.rank % self.block or self.active % self.block or self.active > self.rank:
            raise ValueError(
                "learner.adapter.rank and active are multiples of block, and active is at most rank, got"
                f" {self.rank}, {self.active} and {self.block}"
            )
        if self.speed < 0:
            raise ValueError(f"learner.adapter.speed is at least 0, got {self.speed}")

    def layer(self, name: str, base: nn.Linear, depth: int) -> "SmoraLinear":
        return SmoraLinear(base, self)


class SmoraLinear(RoutedLinear):
    """A [rank, in], B [out, rank]; `leaning` int64 [block] counts steps of the bias b = speed * leaning."""

    def __init__(self, base: nn.Linear, config: Smora) -> None:
        super().__init__(base, keeps_outputs=config.keeps_outputs)
        self.config = config
        blocks = config.rank // config.block
        self.low_A = self.trainable(config.rank, base.in_features)
        self.low_B = self.trainable(base.out_features, config.rank)
        self.router = self.trainable(blocks, base.in_features)
        fan_in_uniform_(self.low_A)
        fan_in_uniform_(self.router)
        self.register_buffer("leaning", torch.zeros(blocks, dtype=torch.int64, device=base.weight.device))
        self.counts: Tensor | None = None

    def delta(self, x: Tensor) -> tuple[Tensor, RouterStats]:
        config = self.config
        scores = router_logits(x, self.router).sigmoid()
        leaned = scores + config.speed * self.leaning
        chosen = leaned.detach().topk(config.active // config.block, dim=-1).indices
        values = leaned if config.bias_in_gate else scores
        kept = torch.zeros_like(values).scatter(-1, chosen, values.gather(-1, chosen))
        # Every rank of a block has its gate: the sum over ranks is `block` times the one over blocks.
        gate = kept / (config.block * kept.sum(-1, keepdim=True).clamp_min(SMALLEST_SUM)) * config.active
        states = nn.functional.linear(x, self.low_A)
        each_rank = gate.repeat_interleave(config.block, dim=-1).to(states.dtype)
        delta = config.alpha / config.active * nn.functional.linear(states * each_rank, self.low_B)
        outputs = None
        if self.keeps_outputs and torch.is_grad_enabled():
            split = (-1, config.block)
            outputs = torch.einsum("ner,oer->neo", states.unflatten(-1, split), self.low_B.unflatten(-1, split))
        return delta, RouterStats(
            probs=scores / scores.sum(-1, keepdim=True).clamp_min(SMALLEST_SUM), weights=gate, outputs=outputs
        )

    @torch.no_grad()
    def observe(self, stats: RouterStats) -> None:
        found = (stats.weights > 0).sum(0)
        self.counts = found if self.counts is None else self.counts + found

    @torch.no_grad()
    def settle(self, ranks: int) -> None:
        counts = torch.zeros_like(self.leaning) if self.counts is None else self.counts
        self.counts = None
        if ranks > 1:
            dist.all_reduce(counts)
        self.leaning += (counts.sum() - counts * len(counts)).sign()  # sign(mean - count), in whole numbers
