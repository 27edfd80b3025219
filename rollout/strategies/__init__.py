"""Decoding strategies: ways to make a response other than drawing it from first to last token.

    strategy                     how a response comes about                                     method
    plain.Plain                  the policy draws it                                            none
    second_rollout.SecondRollout some of a group at a second temperature                        AEPO
    diff_adapt.DiffAdapt         temperature, length and opening by the prompt's difficulty     DiffAdapt
    model_switch.ModelSwitch     two models take turns, by rolling entropy                      EAD
    bes.Evolution                the best of a pool of solutions extended and recombined        BES

strategy.py is the seam, samples.py runs a group response by response, passage.py keeps every token's record whole while
responses are cut and joined. Pure: engines come in through a Protocol.
"""

from rollout.strategies.bes import Evolution
from rollout.strategies.diff_adapt import DiffAdapt
from rollout.strategies.model_switch import ModelSwitch
from rollout.strategies.plain import Plain
from rollout.strategies.second_rollout import SecondRollout
from rollout.strategies.strategy import (
    HIDDEN,
    OTHER_MODEL,
    SECOND_TEMPERATURE,
    Circumstances,
    Resources,
    RolloutSource,
    RolloutStrategy,
)

__all__ = [
    "HIDDEN",
    "OTHER_MODEL",
    "SECOND_TEMPERATURE",
    "Circumstances",
    "DiffAdapt",
    "Evolution",
    "ModelSwitch",
    "Plain",
    "Resources",
    "RolloutSource",
    "RolloutStrategy",
    "SecondRollout",
]
