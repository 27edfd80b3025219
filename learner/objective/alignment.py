"""Alignment: right answers to one prompt are given from similar states of mind."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from learner.measures import Measure, Measures
from learner.objective.aggregate import SampleSum
from learner.objective.observations import AnswerState
from learner.objective.stats import Peers, TokenStats

SMALLEST_NORM = 1e-12


@dataclass(frozen=True, kw_only=True)
class AlignRight:
    """Pull the states just before the answer together, of right answers to the same prompt.

    Rule    over the n >= 2 right answers of a group, h their states, u = h / |h|: "pairwise" X = 1 - mean over pairs of
            u_i . u_j; "centroid" X = 1 - mean of u_i . c, c = sum u / |sum u|; "l2" X = mean over pairs and channels of
            (h_i - h_j)^2; loss = coefficient * mean of X over the groups that have two right answers
    Source  Hidden-Align, arXiv:2606.03234, grade A'-third (pairwise; the other forms are ablations); the coefficient is
            not known: 0.01 to 0.1 are worth trying.
    Units   where the state is taken: observations.AnswerState. Right: the mark `right` (marks.py) is above 0.
    Traps   look at align/wrong_cosine too: where wrong answers align as well, states are only squeezed together. The
            states of a whole group are needed at once: with several micro-batches or ranks one more forward pass,
            without the head, collects them, so that how a batch is cut changes neither loss nor gradient.
    """

    reads_marks: ClassVar[frozenset[str]] = frozenset({"right"})
    coefficient: float = 0.03
    form: Literal["pairwise", "centroid", "l2"] = "pairwise"
    state: AnswerState = field(default_factory=AnswerState)
    aggregate: Any = field(default_factory=SampleSum)

    def __post_init__(self) -> None:
        if self.form not in ("pairwise", "centroid", "l2"):
            raise ValueError(f"AlignRight.form is 'pairwise', 'centroid' or 'l2', got {self.form!r}")

    @property
    def needs(self) -> frozenset[AnswerState]:
        return frozenset({self.state})

    def __call__(self, stats: TokenStats) -> tuple[Tensor, Measures]:
        """[seq, tok]: each sample's share of the mean of X at every one of its tokens."""
        right = stats.peers.marks["right"] > 0
        known, peer = stats.peers.group.unique(return_inverse=True)
        group = torch.searchsorted(known, stats.group)
        vectors = self._vectors(stats.peers.states)
        zeros = vectors.new_zeros(len(known))
        count = zeros.index_add(0, peer, right.to(vectors.dtype))
        total = vectors.new_zeros(len(known), vectors.shape[1]).index_add(0, peer, vectors * right[:, None])
        squares = zeros.index_add(0, peer, vectors.square().sum(1) * right)
        share = self._share(self._vectors(stats.answers), count[group], total[group], squares[group])
        aligned = (stats.marks["right"] > 0) & (count[group] >= 2)
        scale = self.coefficient / (count >= 2).sum().clamp_min(1)
        term = torch.where(aligned, scale * share, 0.0)
        return term[:, None].expand(stats.mask.shape), {
            "align/right_cosine": _mean_cosine(stats.peers, right),
            "align/wrong_cosine": _mean_cosine(stats.peers, ~right),
        }

    def _vectors(self, states: Tensor) -> Tensor:
        return states / states.shape[1] ** 0.5 if self.form == "l2" else F.normalize(states, dim=1)

    def _share(self, own: Tensor, count: Tensor, total: Tensor, squares: Tensor) -> Tensor:
        """[seq] of each sample: the sum over a group is X, and the gradient that of X, of which all else is constant.

        A pair's term belongs half to either member, and each alone can move all of it: hence `_twice_as_steep`.
        """
        count = count.clamp_min(2)
        along = (own * total).sum(1)
        if self.form == "centroid":  # that the centroid moves along changes its length alone
            return 1.0 / count - along / (count * total.norm(dim=1).clamp_min(SMALLEST_NORM))
        pairs = count * (count - 1)
        if self.form == "pairwise":
            return _twice_as_steep(1.0 / count - (along - 1.0) / pairs)
        return _twice_as_steep((count * own.square().sum(1) - 2.0 * along + squares) / pairs)


def _twice_as_steep(values: Tensor) -> Tensor:
    return 2.0 * values - values.detach()


def _mean_cosine(peers: Peers, chosen: Tensor) -> Measure:
    """The mean over groups of the mean cosine between two chosen members, where there are two."""
    _, group = peers.group.unique(return_inverse=True)
    states = F.normalize(peers.states.double(), dim=1) * chosen[:, None]
    groups = int(group.max()) + 1
    count = states.new_zeros(groups).index_add(0, group, chosen.double())
    total = states.new_zeros(groups, states.shape[1]).index_add(0, group, states)
    cosine = (total.square().sum(1) - count) / (count * (count - 1)).clamp_min(1)
    paired = count >= 2
    return Measure(value=cosine[paired].sum(), weight=paired.sum().double(), how="mean")
