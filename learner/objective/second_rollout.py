"""AEPO's half of the second rollout: what was drawn hotter or cooler is imitated where it is right, else left out.

    Outcomes --SecondRolloutAdvantage--> A: of main responses within the main ones, 1 for right second ones, else 0
             --OnlyRightSeconds--> wrong second ones leave the batch
    tokens   --ImitatedSeconds--> main: the surrogate; second: - A lp at T = 1, whatever they were drawn at

Main responses are drawn at T = 1, and a response belongs to the second rollout iff it was drawn at another temperature.
Evaluating it at T = 1 is the method: E over pi_T of grad log pi_1 moves pi_1 towards pi_T, so right answers of a hotter
policy raise the entropy. Evaluated at its own temperature it would be policy gradient like any other.
"""

from dataclasses import dataclass, field, replace
from itertools import compress
from typing import Any, ClassVar

import torch
from torch import Tensor

from learner.measures import Measures
from learner.objective.advantage import GroupMean
from learner.objective.reads import LogProbAt, Read
from learner.objective.stats import Outcomes, TokenStats
from learner.objective.surrogate import Clipped
from rollout.draw.temperature import Fixed

MAIN = 1.0  # the temperature of the main rollout
PLAIN = LogProbAt(temperature=MAIN, gradient=True)


@dataclass(frozen=True, kw_only=True)
class SecondRolloutAdvantage:
    """Main responses are compared among themselves; second ones count as 1 where they are right in a mixed group.

    Rule    main: `estimator` over the main responses of the group; second: 1 if `estimator` over the whole group is
            above `threshold`, else 0
    Source  AEPO, arXiv:2510.08141, grade A-code (597358816/AEPO, ray_trainer.py): threshold 0.05. There the second
            rollout is a group of its own; here it is a quarter of one and is compared with all of it (ours).
    Units   temperature, second: the run's, to refuse a run without a main rollout at T = 1 or without a second one.
    """

    temperature: Any
    second: Any
    threshold: float = 0.05
    estimator: Any = field(default_factory=GroupMean)

    def __post_init__(self) -> None:
        if self.second is None:
            raise ValueError(
                "SecondRolloutAdvantage trains on responses drawn at a second temperature, and the run draws none:"
                " choose strategy=second_rollout"
            )
        if self.temperature != Fixed(temperature=MAIN):
            raise ValueError(
                f"SecondRolloutAdvantage tells the second rollout by its temperature, so the main one is drawn at"
                f" {MAIN:g}, got {self.temperature}: choose temperature=fixed temperature.temperature=1"
            )

    def __call__(self, outcomes: Outcomes) -> Tensor:
        """float64 [seq]."""
        second = is_second(outcomes)
        advantage = (self.estimator(outcomes) > self.threshold).double()
        if not second.all():
            advantage[~second] = self.estimator(_those(outcomes, ~second))
        return advantage

    def measured(self, outcomes: Outcomes) -> dict[str, float]:
        second = is_second(outcomes)
        right = self(outcomes)[second] > 0.0
        return {
            "aepo/second_fraction": second.double().mean().item(),
            "aepo/right_fraction": right.double().mean().item() if len(right) else 0.0,
        }


@dataclass(frozen=True, kw_only=True)
class OnlyRightSeconds:
    """Drop what the second rollout got wrong; its tokens leave the denominators too.

    Source  AEPO, arXiv:2510.08141, grade A-code. The release puts at most 60 right ones in place of as many main
            responses, half as many above the target entropy; here all of them join (ours).
    """

    def __call__(self, outcomes: Outcomes) -> Tensor:
        """bool [seq]."""
        return ~is_second(outcomes) | (outcomes.advantages > 0.0)


@dataclass(frozen=True, kw_only=True)
class ImitatedSeconds:
    """The surrogate for main tokens, and the score of the policy at T = 1 for tokens of the second rollout.

    Rule    second: l = -A exp(lp_1 - sg[lp_1]), value -A, gradient that of -A lp_1; nothing clips
    Source  AEPO, arXiv:2510.08141: E over pi_T of [grad log pi R], grade A-code (README; the update runs at T = 1).
    Traps   weights such as TruncatedImportance are taken at the recorded temperature for these tokens as well: they
            correct engine and staleness, and leave pi_T in place of pi_1.
    """

    needs: ClassVar[frozenset[Read]] = frozenset({PLAIN})
    main: Any = field(default_factory=Clipped)

    def __call__(self, stats: TokenStats) -> tuple[Tensor, Measures]:
        """float32 [seq, tok], to be minimised."""
        values, measures = self.main(stats)
        plain = stats.reads[PLAIN]
        score = -stats.advantage * (plain - plain.detach()).exp()
        return torch.where(stats.temperature == MAIN, values, score), measures


def is_second(outcomes: Outcomes) -> Tensor:
    """bool [seq]."""
    return outcomes.heat != MAIN


def _those(outcomes: Outcomes, chosen: Tensor) -> Outcomes:
    """The outcomes of some samples alone."""
    return replace(
        outcomes,
        rewards=outcomes.rewards[chosen],
        unshaped=outcomes.unshaped[chosen],
        groups=outcomes.groups[chosen],
        lengths=outcomes.lengths[chosen],
        prompts=outcomes.prompts[chosen],
        heat=outcomes.heat[chosen],
        entropies=tuple(compress(outcomes.entropies, chosen.tolist())),
    )
