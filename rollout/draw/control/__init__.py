"""Controllers: what one training step measured decides how hot the next requests are drawn.

    a step's rollouts --EntropyStats.of--> observe --> state (plain values, in the checkpoint) --> policy() --> requests

    controller           policy                                         state
    Constant             the one it was given                           none
    Scheduled            Fixed, along a line or half a cosine           steps seen
    LogPivotFromBatch    LogPivot with the last batch's statistics      four statistics    HAPO
    TargetEntropySwitch  Fixed, high below the target entropy           last mean          AEPO
    EntropyServo         Fixed, steered until the entropy is on target  ln T               ours

A YAML file of the group `temperature` names a controller or a plain policy; `controller_of` makes one of either.
"""

import copy
from typing import Any

from rollout.draw.control.constant import Constant
from rollout.draw.control.controller import State, TemperatureController
from rollout.draw.control.log_pivot_from_batch import LogPivotFromBatch
from rollout.draw.control.scheduled import Scheduled
from rollout.draw.control.servo import EntropyServo
from rollout.draw.control.stats import EntropyStats
from rollout.draw.control.target_switch import TargetEntropySwitch

__all__ = [
    "Constant",
    "EntropyServo",
    "EntropyStats",
    "LogPivotFromBatch",
    "Scheduled",
    "State",
    "TargetEntropySwitch",
    "TemperatureController",
    "controller_of",
]


def controller_of(value: Any) -> TemperatureController:
    """A run's own controller: a copy of a configured one, or, of a plain policy, one that never changes it."""
    return copy.copy(value) if hasattr(value, "observe") else Constant(given=value)
