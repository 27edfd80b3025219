"""Policies as plain values, for the request that carries them and the checkpoint that keeps them."""

import dataclasses
from typing import Any

from rollout.draw.learned import Learned
from rollout.draw.temperature.entropy_linear import EntropyLinear
from rollout.draw.temperature.fixed import Fixed
from rollout.draw.temperature.log_pivot import LogPivot
from rollout.draw.temperature.policy import TemperaturePolicy

POLICIES: dict[str, type] = {policy.name: policy for policy in (Fixed, EntropyLinear, LogPivot, Learned)}


def to_wire(policy: TemperaturePolicy) -> dict[str, Any]:
    """The policy as plain values, e.g. {"name": "fixed", "temperature": 1.0}."""
    return {"name": policy.name, **dataclasses.asdict(policy)}


def from_wire(values: dict[str, Any]) -> TemperaturePolicy:
    """The inverse of `to_wire`. Raises ValueError for a name no policy has and for parameters it does not take."""
    parameters = dict(values)
    name = parameters.pop("name", None)
    if name not in POLICIES:
        raise ValueError(f"unknown temperature policy {name!r}; known are {', '.join(sorted(POLICIES))}")
    known = [field.name for field in dataclasses.fields(POLICIES[name])]
    if unknown := sorted(set(parameters) - set(known)):
        raise ValueError(f"temperature policy {name!r} has no parameter {unknown[0]!r}; it has {', '.join(known)}")
    try:
        return POLICIES[name](**parameters)
    except TypeError as error:
        raise ValueError(f"temperature policy {name!r} cannot be built of {parameters}: {error}") from error
