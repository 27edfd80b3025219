"""Aggregators: from per-token values to this micro-batch's share of the scalar loss. They alone own the denominator.

Denominators are global (`Counts`), so shares add up to the same loss however a batch is cut up.
"""

from dataclasses import dataclass

from torch import Tensor

from learner.objective.stats import Counts, TokenStats


@dataclass(frozen=True, kw_only=True)
class TokenMean:
    """Every trained response token counts the same.

    Rule    sum(values) / number of trained response tokens, also those that a selector or weight has set to 0.
    Source  DAPO, arXiv:2503.14476, K.
    """

    def __call__(self, values: Tensor, stats: TokenStats, counts: Counts) -> Tensor:
        return values.sum() / max(1, counts.tokens)


@dataclass(frozen=True, kw_only=True)
class SequenceMean:
    """Every response counts the same, however long: the mean over responses of the mean over their tokens.

    Rule    sum_i [sum_t(values[i, t]) / len_i] / number of trained responses.
    Source  the original GRPO aggregation, arXiv:2402.03300, K.
    Traps   a long wrong answer is punished less per token than a short one.
    """

    def __call__(self, values: Tensor, stats: TokenStats, counts: Counts) -> Tensor:
        return (values.sum(1) / stats.mask.sum(1).clamp_min(1)).sum() / max(1, counts.sequences)


@dataclass(frozen=True, kw_only=True)
class SequenceSum:
    """Sums over responses, divided by a constant length: no length bias.

    Rule    sum(values) / (number of trained responses * max_tokens).
    Source  Dr.GRPO, arXiv:2503.20783, A-code.
    Units   max_tokens: the longest possible response, a constant of the run (the padded width of a batch is not one).
    """

    max_tokens: int

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"SequenceSum.max_tokens is at least 1, got {self.max_tokens}")

    def __call__(self, values: Tensor, stats: TokenStats, counts: Counts) -> Tensor:
        return values.sum() / (max(1, counts.sequences) * self.max_tokens)


@dataclass(frozen=True, kw_only=True)
class SampleSum:
    """For values that are one number per response, repeated at its tokens, and already divided by what they count.

    Rule    sum_i [sum_t(values[i, t]) / len_i].
    """

    def __call__(self, values: Tensor, stats: TokenStats, counts: Counts) -> Tensor:
        return (values.sum(1) / stats.mask.sum(1).clamp_min(1)).sum()
