"""Advantage estimators: from the rewards of whole groups to one number per sample."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from learner.objective.stats import Outcomes


@dataclass(frozen=True, kw_only=True)
class GroupMean:
    """How much better a sample did than the mean of its group.

    Rule    A = R - mean(R of the group), divided by std(R of the group) + epsilon where `divide_by_std`. `within`
            prompt: of the group's samples with the very same prompt, where a group holds paraphrases of one question.
    Source  GRPO, arXiv:2402.03300 (with std), K / A-code; Dr.GRPO, arXiv:2503.20783 (without), A-code; PS-GRPO,
            arXiv:2510.04392 (within prompt), A'-third.
    Units   of the reward, or of its standard deviation; the sample (n - 1) deviation, as in released code.
    Traps   a group of one has nothing to compare with: A = 0 (released code would hand it its raw reward).
    """

    divide_by_std: bool = True
    epsilon: float = 1e-6
    within: Literal["group", "prompt"] = "group"

    def __post_init__(self) -> None:
        if self.within not in ("group", "prompt"):
            raise ValueError(f"GroupMean.within is 'group' or 'prompt', got {self.within!r}")

    def __call__(self, outcomes: Outcomes) -> Tensor:
        """float64 [seq]."""
        if self.within == "prompt":
            cells = torch.stack((outcomes.groups, outcomes.prompts), 1)
            _, group = cells.unique(dim=0, return_inverse=True)
        else:
            _, group = outcomes.groups.unique(return_inverse=True)
        zeros = torch.zeros(int(group.max()) + 1, dtype=torch.float64)
        size = zeros.index_add(0, group, torch.ones_like(outcomes.rewards))
        centred = outcomes.rewards - (zeros.index_add(0, group, outcomes.rewards) / size)[group]
        if not self.divide_by_std:
            return centred
        variance = zeros.index_add(0, group, centred.square()) / (size - 1).clamp_min(1)
        return centred / (variance.sqrt()[group] + self.epsilon)


@dataclass(frozen=True, kw_only=True)
class LeaveOneOut:
    """How much better a sample did than the mean of the others of its group.

    Rule    A = R - mean of the group without it = (R - mean(R)) * n / (n - 1)
    Source  RLOO, arXiv:2402.14740, K.
    Traps   a group of one has nobody to compare with: A = 0.
    """

    def __call__(self, outcomes: Outcomes) -> Tensor:
        """float64 [seq]."""
        group, size = _groups(outcomes)
        centred = GroupMean(divide_by_std=False)(outcomes)
        return centred * (size / (size - 1).clamp_min(1))[group]


@dataclass(frozen=True, kw_only=True)
class BatchNormalised:
    """Rewards in units of the whole batch's deviation: easy and hard prompts are measured with one scale.

    Rule    A = (x - mean(x)) / (std(x) + epsilon) over the batch, x = R, or R - mean(R of the group) with `group_mean`.
    Source  REINFORCE++ and its group baseline, arXiv:2501.03262, K; the sample (n - 1) deviation.
    Traps   without `group_mean` a group that agrees has an advantage, so filter it or not, but know it.
    """

    group_mean: bool = False
    epsilon: float = 1e-6

    def __call__(self, outcomes: Outcomes) -> Tensor:
        """float64 [seq]."""
        values = GroupMean(divide_by_std=False)(outcomes) if self.group_mean else outcomes.rewards
        centred = values - values.mean()
        deviation = (centred.square().sum() / max(1, len(values) - 1)).sqrt()
        return centred / (deviation + self.epsilon)


@dataclass(frozen=True, kw_only=True)
class TokenGroupMean:
    """The group's mean and deviation over its tokens: a long response counts as often as it has tokens.

    Rule    A_i = (R_i - m) / (s + epsilon), m and s the mean and population deviation of R over all tokens of the
            group; a group in which any |A| reaches `fallback` takes GroupMean instead.
    Source  HAPO "token-level group average", arXiv:2509.16591, grade A-code (starriver030515/HAPO, core_algos.py).
    Units   lengths are trained tokens.
    """

    epsilon: float = 1e-6
    fallback: float = 5.0

    def __call__(self, outcomes: Outcomes) -> Tensor:
        """float64 [seq]."""
        _, group = outcomes.groups.unique(return_inverse=True)
        lengths = outcomes.lengths.double()
        zeros = torch.zeros(int(group.max()) + 1, dtype=torch.float64)
        tokens = zeros.index_add(0, group, lengths)
        centred = outcomes.rewards - (zeros.index_add(0, group, outcomes.rewards * lengths) / tokens)[group]
        variance = zeros.index_add(0, group, centred.square() * lengths) / tokens
        advantage = centred / (variance.sqrt()[group] + self.epsilon)
        largest = zeros.scatter_reduce(0, group, advantage.abs(), "amax")
        return torch.where((largest >= self.fallback)[group], GroupMean()(outcomes), advantage)


@dataclass(frozen=True, kw_only=True)
class Signed:
    """No comparison within the group: every sample is good or bad by itself, and one of the two may be left out.

    Rule    A = (R - zero) / (1 - zero); mode "positive": max(A, 0), "negative": min(A, 0), "both": GroupMean
    Source  Entrocraft's switch, arXiv:2604.26326, grade A-code (lblaoke/entrocraft, core_algos.py): RAFT++ above the
            band, rejected positives below it, GRPO inside. It wants rewards of +-1; `zero` maps [0, 1] there (ours).
    Units   zero: the reward that is neither good nor bad, below 1.
    """

    mode: Literal["both", "positive", "negative"] = "both"
    zero: float = 0.5

    def __post_init__(self) -> None:
        if self.mode not in ("both", "positive", "negative"):
            raise ValueError(f"Signed.mode is 'both', 'positive' or 'negative', got {self.mode!r}")
        if not self.zero < 1.0:
            raise ValueError(f"Signed.zero is a reward below 1, got {self.zero}")

    def __call__(self, outcomes: Outcomes) -> Tensor:
        """float64 [seq]."""
        if self.mode == "both":
            return GroupMean()(outcomes)
        signed = (outcomes.rewards - self.zero) / (1.0 - self.zero)
        return signed.clamp_min(0.0) if self.mode == "positive" else signed.clamp_max(0.0)


def _groups(outcomes: Outcomes) -> tuple[Tensor, Tensor]:
    """int64 [seq] the number of each sample's group, float64 [group] its samples."""
    _, group = outcomes.groups.unique(return_inverse=True)
    return group, torch.bincount(group).double()
