"""Observations: what the transformer itself shows on its way to the head. A piece lists those it wants in `needs`.

needs --> learner/attention.py looks at one layer while it attends  --> TokenStats.reads[observation], per token
      --> learner/answers.py says where the answer of a sample begins --> TokenStats.answers, a state per sample
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class AttentionEntropy:
    """How widely the position that predicts a token looks back, in one layer. Without gradient.

    Rule    a = H(mean over heads of the attention row) / ln(number of positions it may look at), 0 where that is 1
    Source  arXiv:2605.07660, grade A'-third: heads are averaged before the entropy is taken; which layer is not known.
    Units   a fraction in [0, 1] of the largest possible entropy.  layer: depth as a fraction, 0 the first, 1 the last.
    Traps   the row of the position before the token, which predicts it; its own exists only where a token follows.
    """

    layer: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 <= self.layer <= 1.0:
            raise ValueError(f"AttentionEntropy.layer is a fraction of the depth in [0, 1], got {self.layer}")

    def index(self, layers: int) -> int:
        """Of the layer among so many."""
        return min(layers - 1, int(self.layer * layers))


@dataclass(frozen=True, kw_only=True)
class AnswerState:
    """The hidden state from which a response's answer follows: what the head reads just before it. With gradient.

    Rule    the state that predicts the token in which the last `marker` begins; where there is none, or `marker` is
            null, the one that predicts the last trained token
    Source  Hidden-Align, arXiv:2606.03234, grade A'-third: last layer, before the last "\\boxed{"; the rest is ours.
    Units   [channel], after the model's final norm.
    """

    marker: str | None = "\\boxed{"

    def __post_init__(self) -> None:
        if self.marker == "":
            raise ValueError("AnswerState.marker is some text that answers begin with, or null, got an empty one")
