"""Sample filters: which samples of a train batch are trained at all, decided before any forward pass."""

from dataclasses import dataclass

import torch
from torch import Tensor

from learner.objective.stats import Outcomes


@dataclass(frozen=True, kw_only=True)
class MixedGroupsOnly:
    """Drop groups whose samples the verifier all gave the same reward.

    Rule    a sample stays iff max(R) > min(R) in its group, R before shaping: lengths alone make no group mixed.
    Source  DAPO's dynamic sampling, arXiv:2503.14476, K. With `refill` the scheduler draws other tasks in place of what
            would be dropped here, before the batch is made (run.max_refills; the paper sets no limit).
    Traps   dropped tokens leave the denominators too, so a batch with one mixed group takes a full-sized step.
    """

    refill: bool = False

    def __call__(self, outcomes: Outcomes) -> Tensor:
        """bool [seq]."""
        _, group = outcomes.groups.unique(return_inverse=True)
        empty = torch.zeros(int(group.max()) + 1, dtype=torch.float64)
        high = empty.scatter_reduce(0, group, outcomes.unshaped, "amax", include_self=False)
        low = empty.scatter_reduce(0, group, outcomes.unshaped, "amin", include_self=False)
        return (high > low)[group]


@dataclass(frozen=True, kw_only=True)
class WidestAdvantages:
    """Of each group, and then of the batch, keep the samples whose advantages differ most.

    Rule    of n samples keep the k whose advantages have the largest variance: the a largest and k - a smallest, the
            best a. First `per_group` of each group, then `fraction` of what is left, over all groups.
    Source  D3S stages 1 and 2, arXiv:2509.22115, grade A'-third; the constants are ours (the authors' are not known).
    Units   per_group: samples, rounded, all where it exceeds the group.  fraction: in (0, 1].
    Traps   advantages come from whole groups and are not normalised again. Groups that agree vanish in stage 2.
    """

    per_group: float = 4
    fraction: float = 0.5

    def __post_init__(self) -> None:
        if not (self.per_group >= 1 and 0.0 < self.fraction <= 1.0):
            raise ValueError(
                "WidestAdvantages needs per_group >= 1 and fraction in (0, 1], got"
                f" {self.per_group} and {self.fraction}"
            )

    def __call__(self, outcomes: Outcomes) -> Tensor:
        """bool [seq]."""
        kept = torch.zeros(len(outcomes.rewards), dtype=torch.bool)
        for group in outcomes.groups.unique():
            members = (outcomes.groups == group).nonzero()[:, 0]
            kept[members[widest(outcomes.advantages[members], round(self.per_group))]] = True
        union = kept.nonzero()[:, 0]
        chosen = union[widest(outcomes.advantages[union], max(1, round(self.fraction * len(union))))]
        return torch.zeros_like(kept).index_fill(0, chosen, True)


def widest(values: Tensor, count: int) -> Tensor:
    """Indices of the `count` values [n] with the largest variance; all of them where there are not more."""
    order = values.argsort(stable=True)
    if count >= len(values):
        return order
    ordered = values[order]
    sums = torch.cat([ordered.new_zeros(1), ordered.cumsum(0)])
    squares = torch.cat([ordered.new_zeros(1), ordered.square().cumsum(0)])
    low = torch.arange(count + 1)  # this many of the smallest, the rest of the largest
    high = len(values) - (count - low)
    total = sums[low] + sums[-1] - sums[high]
    variance = (squares[low] + squares[-1] - squares[high]) / count - (total / count).square()
    best = int(variance.argmax())
    return torch.cat([order[:best], order[len(values) - (count - best) :]])
