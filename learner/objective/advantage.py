"""Advantage estimators: from the rewards of whole groups to one number per sample."""

from dataclasses import dataclass

import torch
from torch import Tensor

from learner.objective.stats import Outcomes


@dataclass(frozen=True, kw_only=True)
class GroupMean:
    """How much better a sample did than the mean of its group.

    Rule    A = R - mean(R of the group), divided by std(R of the group) + epsilon where `divide_by_std`.
    Source  GRPO, arXiv:2402.03300 (with std), K / A-code; Dr.GRPO, arXiv:2503.20783 (without), A-code.
    Units   of the reward, or of its standard deviation; the sample (n - 1) deviation, as in released code.
    Traps   a group of one has nothing to compare with: A = 0 (released code would hand it its raw reward).
    """

    divide_by_std: bool = True
    epsilon: float = 1e-6

    def __call__(self, outcomes: Outcomes) -> Tensor:
        """float64 [seq]."""
        _, group = outcomes.groups.unique(return_inverse=True)
        zeros = torch.zeros(int(group.max()) + 1, dtype=torch.float64)
        size = zeros.index_add(0, group, torch.ones_like(outcomes.rewards))
        centred = outcomes.rewards - (zeros.index_add(0, group, outcomes.rewards) / size)[group]
        if not self.divide_by_std:
            return centred
        variance = zeros.index_add(0, group, centred.square()) / (size - 1).clamp_min(1)
        return centred / (variance.sqrt()[group] + self.epsilon)
