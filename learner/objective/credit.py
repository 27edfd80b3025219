"""Credit: from one advantage per response to one per token, given what the forward pass says of the tokens."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from learner.objective.reads import LogProbAt, Read
from learner.objective.stats import TokenStats
from learner.objective.weights import MAX_LOG_RATIO


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


@dataclass(frozen=True, kw_only=True)
class TemperatureRatio:
    """Right answers get credit for tokens that another temperature would have drawn more often.

    Rule    f = exp(lp at `temperature` - lp at 1); a = strength / fraction of right samples, then a / (1 + a);
            A_t = (1 - a) A + a * right * f
    Source  DCPO, in the code of AEPO, grade A-code (597358816/AEPO, ray_trainer.py); arXiv:2510.08141. A hotter
            temperature gives rare tokens credit and so raises the entropy, a cooler one lowers it.
    Units   strength: min(|target - H|, 0.1) nats, set with `temperature` by entropy_target.TemperatureContrast; 0 is
            GRPO. Marks: `right` and `right_fraction` (marks.py), of the whole batch.
    Traps   right answers of a group in which all are right are trained as well. a is worked out as strength /
            (strength + fraction), which is the same and needs no case for a batch without a right answer.
    """

    reads_marks: ClassVar[frozenset[str]] = frozenset({"right", "right_fraction"})
    temperature: float = 1.2
    strength: float = 0.0

    def __post_init__(self) -> None:
        if not (self.temperature > 0.0 and self.strength >= 0.0):
            raise ValueError(
                f"TemperatureRatio needs temperature > 0 and strength >= 0, got {self.temperature} and {self.strength}"
            )

    @property
    def needs(self) -> frozenset[Read]:
        if self.strength == 0.0:
            return frozenset()
        return frozenset({LogProbAt(temperature=self.temperature), LogProbAt(temperature=1.0)})

    def __call__(self, stats: TokenStats) -> Tensor:
        """[seq, tok]."""
        if self.strength == 0.0:
            return stats.advantage
        hot, plain = (stats.reads[LogProbAt(temperature=t)] for t in (self.temperature, 1.0))
        ratio = (hot - plain).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
        share = (self.strength / (self.strength + stats.marks["right_fraction"]))[:, None]
        credit = (1.0 - share) * stats.advantage + share * stats.marks["right"][:, None] * ratio
        return torch.where(stats.mask, credit, stats.advantage)


@dataclass(frozen=True, kw_only=True)
class StepConfidence:
    """Sure steps count more, unsure ones less, and a step that leads to a sure one gets a bonus.

    Rule    H_s = mean entropy of step s, h = (H_s - min) / (max - min + 1e-8) over all steps; g = exp(-k h) over its
            mean over steps; f = exp(-k_f h); A_t = A g_s + zeta f_(s + 1), the last step of a response has no bonus;
            then minus the mean over all tokens (`centre`)
    Source  EMPG, arXiv:2509.09265, grade A-paper for g, f and h (the authors' page); bonus and centring are from memory
            of eqs. 8 and 9; k = k_f = 1, zeta 0.1.
    Units   a step is a run of trained tokens, ended by tokens that the policy did not draw: one turn of an agent. H is
            of the policy as it is now, in nats at T = 1.
    Traps   minimum, maximum and means are the micro-batch's. Where every response is one turn there is no bonus, and a
            whole response counts more or less. `centre` pulls at groups that agree as well.
    """

    k: float = 1.0
    k_f: float = 1.0
    zeta: float = 0.1
    centre: bool = True

    def __call__(self, stats: TokenStats) -> Tensor:
        """[seq, tok]."""
        mask = stats.mask
        if not mask.any():
            return stats.advantage
        step, row = steps_of(mask)
        confidence = confidence_of(stats.entropy.detach()[mask].double(), step)
        weight = (-self.k * confidence).exp()
        weight = weight / weight.mean()
        bonus = torch.zeros_like(weight)
        bonus[:-1] = (-self.k_f * confidence[1:]).exp() * (row[1:] == row[:-1])
        credit = stats.advantage[mask] * weight[step] + self.zeta * bonus[step]
        if self.centre:
            credit = credit - credit.mean()
        return stats.advantage.masked_scatter(mask, credit.to(stats.advantage.dtype))


def steps_of(mask: Tensor) -> tuple[Tensor, Tensor]:
    """int64 [trained token] the number of its step, and int64 [step] the row of each; numbers rise along the rows."""
    begins = mask.clone()
    begins[:, 1:] &= ~mask[:, :-1]
    step = (begins.flatten().cumsum(0) - 1).view(mask.shape)[mask]
    return step, begins.nonzero()[:, 0]


def confidence_of(entropy: Tensor, step: Tensor) -> Tensor:
    """float64 [step] in [0, 1]: 0 for the surest step and 1 for the least sure; entropy, step [trained token]."""
    zeros = entropy.new_zeros(int(step.max()) + 1)
    mean = zeros.index_add(0, step, entropy) / zeros.index_add(0, step, torch.ones_like(entropy))
    return (mean - mean.min()) / (mean.max() - mean.min() + 1e-8)


def _normalised(values: Tensor, cell: Tensor, epsilon: float) -> Tensor:
    """(x - mean) / (deviation + epsilon) within each cell; values, cell [token], the population deviation."""
    if not values.numel():
        return values
    zeros = values.new_zeros(int(cell.max()) + 1)
    count = zeros.index_add(0, cell, torch.ones_like(values))
    centred = values - (zeros.index_add(0, cell, values) / count)[cell]
    deviation = (zeros.index_add(0, cell, centred.square()) / count).sqrt()
    return centred / (deviation[cell] + epsilon)
