"""Imitation: the policy follows what it would have said itself, had it seen feedback on its answer."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from learner.measures import Measures, mean_of
from learner.objective.reads import Read, TeacherCrossEntropy
from learner.objective.stats import TokenStats

CROSS_ENTROPY = TeacherCrossEntropy()


@dataclass(frozen=True, kw_only=True)
class ImitateTeacher:
    """A surrogate without rewards: cross-entropy to the teacher, now and at the tokens that this one leads to.

    Rule    Hx_t = -sum_a q_t(a) ln pi_t(a), q the present policy with feedback in its prompt, without gradient;
            l_t = Hx_t + future * lp_t (F_t - b_t), F_t = sum_{i > t} Hx_i, b_t the mean of F at the same place of the
            other responses of the group (`baseline`), 0 where there is none
    Source  DistIL, arXiv:2606.05152, grade A-paper (the authors' page): the gradient of E[sum_t Hx_t], and with
            future = 0 its ablation "CE". The baseline is ours; it changes no expectation.
    Units   nats at the recorded temperature, inside what was left to draw from. The whole vocabulary of the teacher is
            used, where the page takes the k likeliest tokens and one for the rest.
    Traps   rewards and advantages are not looked at. Samples without feedback pull at nothing, and count among the
            tokens of the mean. F grows with the length of the response: without a baseline mostly the first tokens
            of long ones are punished. The group is its part in the micro-batch. The value is not a loss one can
            compare, only its gradient means something.
    """

    needs: ClassVar[frozenset[Read]] = frozenset({CROSS_ENTROPY})
    future: float = 1.0
    baseline: bool = True

    def __post_init__(self) -> None:
        if self.future < 0.0:
            raise ValueError(f"ImitateTeacher.future weighs a cost and is >= 0, got {self.future}")

    def __call__(self, stats: TokenStats) -> tuple[Tensor, Measures]:
        """float32 [seq, tok], to be minimised."""
        now = stats.reads[CROSS_ENTROPY]
        cost = now.detach()
        taught = stats.mask & (cost > 0).any(1, keepdim=True)
        future = cost.flip(1).cumsum(1).flip(1) - cost
        excess = future - _of_the_others(future, taught, stats.group) if self.baseline else future
        loss = now + self.future * stats.lp * excess.masked_fill(~taught, 0.0)
        return loss, {
            "distil/cross_entropy": mean_of(cost, taught),
            "distil/taught_fraction": mean_of(taught, stats.mask),
        }


def _of_the_others(values: Tensor, counted: Tensor, group: Tensor) -> Tensor:
    """[seq, tok] the mean at the same place over the other counted members of the group, 0 where there are none."""
    _, member = group.unique(return_inverse=True)
    zeros = values.new_zeros(int(member.max()) + 1, values.shape[1])
    mine = values.masked_fill(~counted, 0.0)
    total = zeros.index_add(0, member, mine)[member] - mine
    count = zeros.index_add(0, member, counted.to(values.dtype))[member] - counted.to(values.dtype)
    return torch.where(count > 0, total / count.clamp_min(1.0), 0.0)
