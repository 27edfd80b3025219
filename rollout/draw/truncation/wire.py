"""Truncations as plain values, for the request that carries them."""

import dataclasses
from typing import Any

from rollout.draw.truncation.tail import Truncation
from rollout.draw.truncation.top_w import TopW

TRUNCATIONS: dict[str, type] = {rule.name: rule for rule in (Truncation, TopW)}


def to_wire(truncation: Truncation | TopW) -> dict[str, Any]:
    """The truncation as plain values, e.g. {"name": "truncation", "top_p": 0.95, "top_k": 0, "min_p": 0.0}."""
    return {"name": truncation.name, **dataclasses.asdict(truncation)}


def from_wire(values: dict[str, Any]) -> Truncation | TopW:
    """The inverse of `to_wire`. Raises ValueError for a name no rule has and for parameters it does not take."""
    parameters = dict(values)
    name = parameters.pop("name", None)
    if name not in TRUNCATIONS:
        raise ValueError(f"unknown truncation {name!r}; known are {', '.join(sorted(TRUNCATIONS))}")
    known = [field.name for field in dataclasses.fields(TRUNCATIONS[name])]
    if unknown := sorted(set(parameters) - set(known)):
        raise ValueError(f"truncation {name!r} has no parameter {unknown[0]!r}; it has {', '.join(known)}")
    return TRUNCATIONS[name](**parameters)
