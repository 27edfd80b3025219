"""Sample filters: which samples of a train batch are trained at all, decided before any forward pass."""

from dataclasses import dataclass

import torch
from torch import Tensor

from learner.objective.stats import Outcomes


@dataclass(frozen=True, kw_only=True)
class MixedGroupsOnly:
    """Drop groups whose samples the verifier all gave the same reward.

    Rule    a sample stays iff max(R) > min(R) in its group, R before shaping: lengths alone make no group mixed.
    Source  the filter half of DAPO's dynamic sampling, arXiv:2503.14476, K; the scheduler does not refill the batch.
    Traps   dropped tokens leave the denominators too, so a batch with one mixed group takes a full-sized step.
    """

    def __call__(self, outcomes: Outcomes) -> Tensor:
        """bool [seq]."""
        _, group = outcomes.groups.unique(return_inverse=True)
        empty = torch.zeros(int(group.max()) + 1, dtype=torch.float64)
        high = empty.scatter_reduce(0, group, outcomes.unshaped, "amax", include_self=False)
        low = empty.scatter_reduce(0, group, outcomes.unshaped, "amin", include_self=False)
        return (high > low)[group]
