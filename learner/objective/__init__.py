"""The objective algebra: a paper is a composition of small frozen pieces over one set of token statistics.

    rewards --advantage, filters--> A      (whole batch, before any forward pass)
            --marks--> numbers per sample that pieces which see tokens want to know
    stats   --credit--> A per token --select, weights, surrogate--> w * C(lp, lp_old, A)  --aggregate-->
            + regularisers --> loss

    L = aggregate(select * weights * surrogate) + sum_k aggregate(regulariser_k)

Pieces return per-token values; `aggregate` alone reduces, or the one a regulariser brings along. Metrics come back
beside the values, detached. Composed in conf/algorithm/*.yaml; pure torch, no DeepSpeed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from learner.measures import Measures, mean_of, sum_of
from learner.objective.controllers import State, check_knob, turned
from learner.objective.head import HeadTraining
from learner.objective.observations import AnswerState, AttentionEntropy
from learner.objective.reads import Read
from learner.objective.stats import AVAILABLE, Counts, Outcomes, TokenStats

__all__ = ["Counts", "Objective", "Outcomes", "TokenStats"]


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What a learner step minimises.

    Raises ValueError when a piece needs what the forward pass cannot give, reads a mark that nobody makes, or turns a
    knob that does not exist.

    The mappings name their pieces, so that every knob has a path, such as `algorithm.weights.mismatch.cap`.
    """

    advantage: Any  # Outcomes -> [seq]
    surrogate: Any  # TokenStats -> [seq, tok], measures
    aggregate: Any  # values, TokenStats, Counts -> scalar
    credit: Mapping[str, Any] = field(default_factory=dict)  # TokenStats -> advantages [seq, tok], one after the other
    select: Mapping[str, Any] = field(default_factory=dict)  # TokenStats -> bool [seq, tok]
    weights: Mapping[str, Any] = field(default_factory=dict)  # TokenStats -> [seq, tok], measures
    filters: Mapping[str, Any] = field(default_factory=dict)  # Outcomes -> bool [seq]
    marks: Mapping[str, Any] = field(default_factory=dict)  # Outcomes -> float64 [seq], in TokenStats.marks by name
    regularisers: Mapping[str, Any] = field(default_factory=dict)  # TokenStats -> [seq, tok], measures
    controllers: Mapping[str, Any] = field(default_factory=dict)  # Controller, see controllers.py
    head: HeadTraining | None = None  # trains a learned temperature head besides

    def __post_init__(self) -> None:
        for name in ("advantage", "surrogate", "aggregate"):
            if not callable(getattr(self, name)):
                raise ValueError(f"{name} is a piece of learner.objective, got {getattr(self, name)!r}")
        observed = Read | AttentionEntropy | AnswerState
        unknown = {need for need in self.needs if not isinstance(need, observed)} - AVAILABLE
        if unknown:
            raise ValueError(f"the objective needs {sorted(unknown)}; the forward pass can give {sorted(AVAILABLE)}")
        for piece in self._pieces:
            for mark in sorted(getattr(piece, "reads_marks", frozenset()) - self.marks.keys()):
                raise ValueError(
                    f"{type(piece).__name__} reads the mark {mark!r}, and `marks` has {', '.join(self.marks) or 'none'}"
                )
        places = [need for need in self.needs if isinstance(need, AnswerState)]
        if len(places) > 1:
            raise ValueError(f"a response has one place where its answer begins, got {' and '.join(map(str, places))}")
        for piece in self.controllers.values():
            for knob in piece.knobs(piece.start()):
                check_knob(self, knob)

    def check(self, vocabulary: int) -> None:
        """Raises ValueError where a piece looks at more tokens than a model has."""
        for read in self.reads:
            if read.least_vocabulary > vocabulary:
                raise ValueError(f"the model has {vocabulary} tokens, too few for {read}: make it look at fewer")

    @property
    def needs(self) -> frozenset[str | Read | AttentionEntropy | AnswerState]:
        """The union of what the pieces declare: the forward pass computes nothing else."""
        return frozenset().union(*(getattr(piece, "needs", frozenset()) for piece in self._pieces))

    @property
    def _pieces(self) -> list[Any]:
        mappings = (self.credit, self.select, self.weights, self.filters, self.regularisers, self.controllers)
        return [self.advantage, self.surrogate, self.aggregate, *(p for m in mappings for p in m.values())]

    @property
    def reads(self) -> tuple[Read, ...]:
        """Those of the needs that the head computes from all logits, in a fixed order."""
        return tuple(sorted((need for need in self.needs if isinstance(need, Read)), key=repr))

    @property
    def attention(self) -> tuple[AttentionEntropy, ...]:
        """Those of the needs that a layer shows while it attends, in a fixed order."""
        return tuple(sorted((need for need in self.needs if isinstance(need, AttentionEntropy)), key=repr))

    @property
    def answer(self) -> AnswerState | None:
        """The place at which hidden states are compared, if any piece does."""
        return next((need for need in self.needs if isinstance(need, AnswerState)), None)

    @property
    def reference(self) -> bool:
        """Whether a second model, the one the run started from, is looked at."""
        return "lp_ref" in self.needs or any(read.reference for read in self.reads)

    @property
    def teacher(self) -> bool:
        """Whether the policy is also asked what it would say after a prompt with feedback in it."""
        return any(read.teacher for read in self.reads)

    @property
    def refill(self) -> bool:
        """Whether a run draws another task in place of one whose responses all got the same reward."""
        return any(getattr(piece, "refill", False) for piece in self.filters.values())

    def keep(self, outcomes: Outcomes) -> Tensor:
        """bool [seq]: the samples that every filter lets through."""
        kept = torch.ones(len(outcomes.rewards), dtype=torch.bool)
        return reduce(torch.logical_and, (piece(outcomes) for piece in self.filters.values()), kept)

    def measured(self, outcomes: Outcomes) -> dict[str, float]:
        """What advantage and marks have to report of a batch, for controllers and the log."""
        pieces = [piece for piece in (self.advantage, *self.marks.values()) if hasattr(piece, "measured")]
        return {name: value for piece in pieces for name, value in piece.measured(outcomes).items()}

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
            reduce_term = getattr(piece, "aggregate", self.aggregate)
            share = reduce_term(term.masked_fill(~stats.mask, 0.0), stats, counts)
            measures.update(found)
            measures[f"regulariser/{name}"] = sum_of(share)
            loss = loss + share
        measures["train/loss"] = sum_of(loss)
        return loss, measures

    def controlled(self, states: Mapping[str, State]) -> "Objective":
        """The objective with its controllers' knobs set from their states."""
        knobs = (piece.knobs(states[name]) for name, piece in self.controllers.items())
        return reduce(lambda objective, knob: turned(objective, *knob), (k for ks in knobs for k in ks.items()), self)
