"""The pool of partial solutions of one response, and how parents are chosen from it."""

import math
from dataclasses import dataclass, field

import numpy as np

from rollout.strategies.bes.paragraphs import Row
from rollout.strategies.passage import Passage

PER_SCORE = 10.0  # a score of 1 is worth this much in the exponent; A-code
CHILDLESS = 1.0  # and so much is added for what has not been gone on with; A-code


@dataclass(slots=True, kw_only=True, eq=False)
class Node:
    """A solution, complete or not. `score` is the mean of its marks."""

    row: Row
    marks: np.ndarray  # float64 [marks], in [0, 1]
    complete: bool  # the policy ended it, or there is no room for more
    childless: bool = True

    @property
    def score(self) -> float:
        return float(self.marks.mean())

    @property
    def passage(self) -> Passage:
        return Passage.join(*(paragraph.passage for paragraph in self.row))


@dataclass
class Pool:
    """All nodes of one response; the first has no paragraphs. `temperature` of a choice: higher is more even."""

    random: np.random.Generator
    nodes: list[Node] = field(default_factory=list)

    def to_expand(self, temperature: float) -> Node:
        """Weight exp((10 score + 1[no child]) / T), among what is not complete."""
        open_ = [node for node in self.nodes if not node.complete]
        return self._choose(open_, [PER_SCORE * node.score + CHILDLESS * node.childless for node in open_], temperature)

    def to_delete_from(self, temperature: float) -> Node | None:
        """Weight exp(score / T), among what has a paragraph between two others; None where nothing has."""
        long = [node for node in self.nodes if len(node.row) > 2]
        return self._choose(long, [node.score for node in long], temperature) if long else None

    def pair(self, temperature: float) -> tuple[Node, Node] | None:
        """Weight exp(10 u / T), u the mean over marks of the better of the two; None with fewer than two nodes."""
        count = len(self.nodes)
        if count < 2:
            return None
        marks = np.stack([node.marks for node in self.nodes])
        together = np.maximum(marks[:, None], marks[None, :]).mean(-1)
        pairs = [(a, b) for a in range(count) for b in range(count) if a != b]
        a, b = self._choose(pairs, [PER_SCORE * together[pair] for pair in pairs], temperature)
        return self.nodes[a], self.nodes[b]

    def best(self) -> Node:
        """The complete node with the highest score; without a complete one, of all but the empty one."""
        complete = [node for node in self.nodes if node.complete]
        return max(complete or self.nodes[1:] or self.nodes, key=lambda node: node.score)

    def _choose(self, candidates: list, values: list[float], temperature: float):
        top = max(values)
        weights = np.array([math.exp((value - top) / temperature) for value in values])
        return candidates[int(self.random.choice(len(candidates), p=weights / weights.sum()))]
