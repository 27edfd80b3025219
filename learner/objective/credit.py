"""Credit: from one advantage per response to one per token, given what the forward pass says of the tokens."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from learner.objective.stats import TokenStats


@dataclass(frozen=True, kw_only=True)
class ProgressCredit:
    """In a good answer, tokens that the policy has raised above the reference get more; in a bad one, more blame.

    Rule    s = scale (lp - lp_ref); s~ = s normalised over the group's tokens of the same tenth (window) of their
            response; W = sigmoid(gate z), z = H normalised over the group; Psi = W sign(A) s~;
            A_t = A + strength * Psi normalised over the group
    Source  ERPO, arXiv:2603.28204, grade A'-third (eqs. 7, 8, 10 as cited by rodlaf/tokenweighting); additive assembly;
            gate 5, strength 0.2, scale 0.1 are that re-implementation's, windows 10 is ours.
    Traps   statistics are over the part of the group in the micro-batch: make `learner.micro_batch_tokens` large enough
            for whole groups. At lp = lp_ref nothing changes, exactly.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"lp_ref"})
    gate: float = 5.0
    strength: float = 0.2
    scale: float = 0.1
    windows: int = 10

    def __post_init__(self) -> None:
        if self.windows < 1:
            raise ValueError(f"ProgressCredit.windows is at least 1, got {self.windows}")

    def __call__(self, stats: TokenStats) -> Tensor:
        """[seq, tok]."""
        mask = stats.mask
        group = stats.group[:, None].expand(mask.shape)[mask]
        place = (mask.cumsum(1) - 1)[mask]  # of each trained token among those of its response
        length = mask.sum(1, keepdim=True).expand(mask.shape)[mask]
        window = (place * self.windows // length).clamp_max(self.windows - 1)
        progress = self.scale * (stats.lp.detach() - stats.lp_ref)[mask].double()
        _, cell = torch.stack((group, window), 1).unique(dim=0, return_inverse=True)
        _, group = group.unique(return_inverse=True)
        gate = (self.gate * _normalised(stats.entropy.detach()[mask].double(), group, 1e-8)).sigmoid()
        psi = gate * stats.advantage[mask].sign() * _normalised(progress, cell, 1e-6)
        change = self.strength * _normalised(psi, group, 1e-6)
        return stats.advantage.masked_scatter(mask, stats.advantage[mask] + change.to(stats.advantage.dtype))


def _normalised(values: Tensor, cell: Tensor, epsilon: float) -> Tensor:
    """(x - mean) / (deviation + epsilon) within each cell; values, cell [token], the population deviation."""
    if not values.numel():
        return values
    zeros = values.new_zeros(int(cell.max()) + 1)
    count = zeros.index_add(0, cell, torch.ones_like(values))
    centred = values - (zeros.index_add(0, cell, values) / count)[cell]
    deviation = (zeros.index_add(0, cell, centred.square()) / count).sqrt()
    return centred / (deviation[cell] + epsilon)
