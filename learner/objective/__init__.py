"""The objective algebra: a paper is a composition of small frozen pieces over one set of token statistics.

    rewards --filters, advantage--> A      (whole batch, before any forward pass)
    stats   --credit--> A per token --select, weights, surrogate--> w * C(lp, lp_old, A)  --aggregate-->
            + regularisers --> loss

    L = aggregate(select * weights * surrogate) + sum_k aggregate(regulariser_k)

Pieces return per-token values; `aggregate` alone reduces. Metrics come back beside the values, detached. Composed in
conf/algorithm/*.yaml; pure torch, no DeepSpeed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from learner.measures import Measures, mean_of, sum_of
from learner.objective.controllers import State, turned
from learner.objective.head import HeadTraining
from learner.objective.stats import AVAILABLE, Counts, Outcomes, TokenStats

__all__ = ["Counts", "Objective", "Outcomes", "TokenStats"]


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What a learner step minimises. Raises ValueError when a piece needs what the forward pass cannot give.

    The mappings name their pieces, so that every knob has a path, such as `algorithm.weights.mismatch.cap`.
    """

    advantage: Any  # Outcomes -> [seq]
    surrogate: Any  # TokenStats -> [seq, tok], measures
    aggregate: Any  # values, TokenStats, Counts -> scalar
    credit: Mapping[str, Any] = field(default_factory=dict)  # TokenStats -> advantages [seq, tok], one after the other
    select: Mapping[str, Any] = field(default_factory=dict)  # TokenStats -> bool [seq, tok]
    weights: Mapping[str, Any] = field(default_factory=dict)  # TokenStats -> [seq, tok], measures
    filters: Mapping[str, Any] = field(default_factory=dict)  # Outcomes -> bool [seq]
    regularisers: Mapping[str, Any] = field(default_factory=dict)  # TokenStats -> [seq, tok], measures
    controllers: Mapping[str, Any] = field(default_factory=dict)  # Controller, see controllers.py
    head: HeadTraining | None = None  # trains a learned temperature head besides

    def __post_init__(self) -> None:
        unknown = self.needs - AVAILABLE
        if unknown:
            raise ValueError(f"the objective needs {sorted(unknown)}; the forward pass can give {sorted(AVAILABLE)}")

    @property
    def needs(self) -> frozenset[str]:
        """The union of what the pieces declare: the forward pass computes nothing else."""
        mappings = (self.credit, self.select, self.weights, self.filters, self.regularisers, self.controllers)
        pieces = [self.advantage, self.surrogate, self.aggregate, *(p for m in mappings for p in m.values())]
        return frozenset().union(*(getattr(piece, "needs", frozenset()) for piece in pieces))

    def keep(self, outcomes: Outcomes) -> Tensor:
        """bool [seq]: the samples that every filter lets through."""
        kept = torch.ones(len(outcomes.rewards), dtype=torch.bool)
        return reduce(torch.logical_and, (piece(outcomes) for piece in self.filters.values()), kept)

    def __call__(self, stats: TokenStats, counts: Counts) -> tuple[Tensor, Measures]:
        """This micro-batch's share of the loss, and its metrics."""
        for piece in self.credit.values():
            stats = replace(stats, advantage=piece(stats).detach())
        values, measures = self.surrogate(stats)
        measures = dict(measures)
        kept = stats.mask
        for name, piece in self.select.items():
            chosen = piece(stats)
            measures[f"select/{name}_fraction"] = mean_of(chosen, stats.mask)
            kept = kept & chosen
        for piece in self.weights.values():
            weight, found = piece(stats)
            values = values * weight.detach()
            measures.update(found)
        loss = self.aggregate(values.masked_fill(~kept, 0.0), stats, counts)
        for name, piece in self.regularisers.items():
            term, found = piece(stats)
            share = self.aggregate(term.masked_fill(~stats.mask, 0.0), stats, counts)
            measures.update(found)
            measures[f"regulariser/{name}"] = sum_of(share)
            loss = loss + share
        measures["train/loss"] = sum_of(loss)
        return loss, measures

    def controlled(self, states: Mapping[str, State]) -> "Objective":
        """The objective with its controllers' knobs set from their states."""
        knobs = (piece.knobs(states[name]) for name, piece in self.controllers.items())
        return reduce(lambda objective, knob: turned(objective, *knob), (k for ks in knobs for k in ks.items()), self)
