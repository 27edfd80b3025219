"""Metrics as they travel inside the learner: values that know how to be combined over micro-batches and ranks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

Measures = Mapping[str, "Measure"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A partial result: the sum of `value` divided by the sum of `weight` ("mean"), the plain sum, or the maximum.

    value and weight are detached float64 scalars; weight is used by "mean" only.
    """

    value: Tensor
    weight: Tensor
    how: Literal["mean", "sum", "max"]


def mean_of(values: Tensor, mask: Tensor) -> Measure:
    """The mean of `values` where `mask`, both of one shape."""
    chosen = values.detach()[mask].double()
    return Measure(value=chosen.sum(), weight=mask.sum().double(), how="mean")


def max_of(values: Tensor, mask: Tensor) -> Measure:
    """The maximum of `values` where `mask`; minus infinity where nothing is chosen, which combines neutrally."""
    chosen = values.detach()[mask].double()
    value = chosen.max() if chosen.numel() else torch.tensor(-torch.inf, dtype=torch.float64, device=values.device)
    return Measure(value=value, weight=mask.sum().double(), how="max")


def sum_of(value: Tensor) -> Measure:
    """A scalar that adds up, such as a loss already divided by global counts."""
    return Measure(
        value=value.detach().double(), weight=torch.ones((), dtype=torch.float64, device=value.device), how="sum"
    )


def combine(parts: list[Measures]) -> dict[str, Measure]:
    """One set of measures from those of several micro-batches; all have the same names."""
    combined = {}
    for name, first in parts[0].items():
        values = torch.stack([part[name].value for part in parts])
        combined[name] = Measure(
            value=values.max() if first.how == "max" else values.sum(),
            weight=torch.stack([part[name].weight for part in parts]).sum(),
            how=first.how,
        )
    return combined


def reduce(measures: Measures, ranks: int) -> dict[str, float]:
    """Final numbers, equal on every rank. A mean or maximum over nothing is 0."""
    names = sorted(measures)
    maxima = [name for name in names if measures[name].how == "max"]
    sums = [name for name in names if measures[name].how != "max"]
    peaks = torch.stack([measures[name].value for name in maxima]) if maxima else torch.empty(0, dtype=torch.float64)
    totals = torch.stack([torch.stack((measures[name].value, measures[name].weight)) for name in sums])
    if ranks > 1:
        dist.all_reduce(totals)
        if maxima:
            dist.all_reduce(peaks, op=dist.ReduceOp.MAX)
    final = {name: 0.0 if peak == -torch.inf else peak for name, peak in zip(maxima, peaks.tolist(), strict=True)}
    for name, (value, weight) in zip(sums, totals.tolist(), strict=True):
        if measures[name].how == "sum":
            final[name] = value
        else:
            final[name] = value / weight if weight else 0.0
    return final
