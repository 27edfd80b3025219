"""RadarGate: LoRA experts whose outputs are turned against each other before they are added up."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from learner.adapters.adapter import positive
from learner.adapters.routed import ExpertsLinear, Routed, RouterStats, fan_in_uniform_, router_logits


@dataclass(frozen=True, kw_only=True)
class RadarGate(Routed):
    """Rotations of the experts' low-rank states by angles that depend on how alike they are.

    Rule    u_e = A_e x; a_ej = softmax over j != e of <P u_e, P u_j> / sqrt(rank); f_e = u_e + c_e sum_j a_ej u_j;
            angles theta_e = sum_j a_ej Phi_ej + w_e f_e, one per pair of coordinates, Phi_ej = -Phi_je;
            y = W x + scaling * sum_e g_e (1 + tanh(s_e)) B_e R(theta_e) u_e, g = softmax(W_g x)
    Source  RadarGate, arXiv:2505.23184, grade B-recon: our reading of an abstract and a third party's summary. The
            paper may rotate whole outputs; we rotate in rank space, for its cost. Never quote results of this as
            RadarGate's.
    Units   theta: radians.
    Traps   c, Phi, w and s start at 0: the first step is that of a dense mixture of LoRA experts.
    """

    method: ClassVar[str] = "RadarGate"
    experts: int = 4
    rank: int = 8
    scaling: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "scaling")
        if self.experts < 2 or self.rank < 2 or self.rank % 2:
            raise ValueError(
                "learner.adapter.experts is at least 2 and rank even, got"
                f" {self.experts} and {self.rank}: experts are turned in pairs of coordinates, against each other"
            )

    def layer(self, name: str, base: nn.Linear, depth: int) -> "RadarGateLinear":
        return RadarGateLinear(
            base, experts=self.experts, rank=self.rank, scaling=self.scaling, keeps_outputs=self.keeps_outputs
        )


class RadarGateLinear(ExpertsLinear):
    """P, c, Phi (its free half), w and s are `alike`, `fuse`, `turn`, `turn_by` and `stretch`."""

    def __init__(self, base: nn.Linear, **shape) -> None:
        super().__init__(base, **shape)
        experts, rank = self.experts, self.rank
        self.router = self.trainable(experts, base.in_features)
        self.alike = self.trainable(rank, rank)
        fan_in_uniform_(self.router)
        fan_in_uniform_(self.alike)
        self.fuse = self.trainable(experts)
        self.turn = self.trainable(experts, experts, rank // 2)
        self.turn_by = self.trainable(experts, rank // 2, rank)
        self.stretch = self.trainable(experts)

    def delta(self, x: Tensor) -> tuple[Tensor, RouterStats]:
        probs = router_logits(x, self.router).softmax(-1)
        states = self.states(x)
        turned = rotated(states, self.angles(states))
        weights = probs * (1 + self.stretch.float().tanh())
        return self.mixed(turned, weights), self.recorded(probs, weights, turned)

    def angles(self, states: Tensor) -> Tensor:
        """[row, expert, rank] -> radians [row, expert, rank / 2]."""
        seen = nn.functional.linear(states, self.alike)
        likeness = torch.einsum("nek,njk->nej", seen, seen) / self.rank**0.5
        itself = torch.eye(self.experts, dtype=torch.bool, device=states.device)
        attention = likeness.masked_fill(itself, -torch.inf).softmax(-1)
        fused = states + self.fuse[:, None] * torch.einsum("nej,njr->ner", attention, states)
        relative = self.turn - self.turn.transpose(0, 1)
        return torch.einsum("nej,ejh->neh", attention, relative) + torch.einsum("ehr,ner->neh", self.turn_by, fused)


def rotated(states: Tensor, angles: Tensor) -> Tensor:
    """Coordinates 2i and 2i + 1 of the last dimension turned by angle i."""
    first, second = states[..., 0::2], states[..., 1::2]
    cos, sin = angles.cos(), angles.sin()
    return torch.stack((cos * first - sin * second, sin * first + cos * second), dim=-1).flatten(-2)
