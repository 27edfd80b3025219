"""AEPO's second rollout: some responses of every group are drawn hotter or cooler, whichever the entropy calls for.

step's mean entropy --TargetEntropySwitch--> second temperature --GroupRequest--> the last responses of the group
"""

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar

from rollout.draw.control import TargetEntropySwitch
from rollout.draw.control.controller import TemperatureController
from rollout.messages import Rollout
from rollout.strategies.samples import Draws, SampleBySample, no_plan
from rollout.strategies.strategy import SECOND_TEMPERATURE, Circumstances, Resources, RolloutSource


@dataclass(frozen=True, kw_only=True)
class SecondRollout:
    """The last `share` of a group's responses at a temperature of their own.

    Rule    responses with index >= n - round(share * n) are drawn at the temperature of `second`, which observes every
            training step; the others as the run says. Everything else of the two draws is the same.
    Source  AEPO, arXiv:2510.08141, grade A-code (597358816/AEPO ray_trainer.py) for the two temperatures and what
            chooses between them. The release draws a quarter of the prompts again, all n responses, and puts at most 60
            correct ones of them in place of main rollouts; a quarter of every group instead is ours, as a group here
            is scored and trained whole.
    Units   share: fraction of a group's responses, 0 < share < 1.
    Traps   the policy draws all of them, so all may be trained; that the second ones enter with advantage +1 where
            they are right, and not at all where they are wrong, is the learner's part of the method. Their recorded
            temperature tells them apart.
    """

    needs: ClassVar[frozenset[str]] = frozenset({SECOND_TEMPERATURE})
    share: float = 0.25
    second: TemperatureController = field(default_factory=TargetEntropySwitch)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.share) and 0.0 < self.share < 1.0):
            raise ValueError(
                f"SecondRollout.share is a fraction of a group's responses strictly between 0 and 1, got {self.share}"
            )

    def check(self, run: Circumstances) -> None:
        if not 0 < self.responses(run.group_size) < run.group_size:
            raise ValueError(
                f"strategy.share={self.share} of run.group_size={run.group_size} is {self.responses(run.group_size)}"
                " responses, but both rollouts want at least one: change strategy.share or run.group_size"
            )

    def check_files(self) -> None:
        pass

    def responses(self, group_size: int) -> int:
        """How many of a group belong to the second rollout: the last ones."""
        return round(self.share * group_size)

    def over(self, resources: Resources) -> RolloutSource:
        async def sample(draws: Draws, plan: None) -> Rollout:
            request = draws.request
            second = request.second_temperature is not None and draws.index >= request.n - self.responses(request.n)
            temperature = request.second_temperature if second else request.temperature
            drawn = await draws.one(resources.policy, temperature=temperature)
            return replace(drawn, group_id=request.group_id, index=draws.index)

        return SampleBySample(sample, no_plan, resources.deadline_s)
