"""The learner's half of truncation: the same token, the same kept set, other weights.

The ratio pi_theta / pi_old compares like with like only over one kept set. Which tokens the learner's own logits would
keep is another set, so the sampler's set is recorded, and both logprobs are taken inside it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class KeptSets:
    """The tokens that could be drawn at each of a batch of rows; a few of the vocabulary, so they are listed.

    ids      int32 [kept tokens of all rows], row after row, rising within a row
    counts   int64 [rows]
    """

    ids: Tensor
    counts: Tensor

    def __post_init__(self) -> None:
        if int(self.counts.sum()) != self.ids.numel():
            raise ValueError(f"kept sets list {self.ids.numel()} tokens but count {int(self.counts.sum())}")

    @classmethod
    def of(cls, truncated_logits: Tensor) -> "KeptSets":
        """truncated logits [rows, vocab], -inf outside the set -> KeptSets."""
        inside = truncated_logits > -torch.inf
        return cls(ids=inside.nonzero()[:, 1].int(), counts=inside.sum(-1))


def kept_logprob(logits: Tensor, token_ids: Tensor, temperatures: Tensor, kept: KeptSets) -> Tensor:
    """Log-probability in nats of `token_ids` under softmax(logits / temperature) restricted to the kept sets.

    Rule    z_y / T - logsumexp over v in the row's kept set of z_v / T
    Source  ours; the same restriction as verl's and vLLM's sampling mask.
    Units   logits [rows, vocab], token_ids int64 [rows], temperatures [rows] > 0 -> [rows] nats. Differentiable.
    Traps   a token outside its kept set was not drawn from this distribution: its result is NaN, which no loss hides.
            Keeping the whole vocabulary gives tempered_logprob.
    """
    rows = torch.arange(logits.shape[0], device=logits.device)
    row_of = rows.repeat_interleave(kept.counts)
    inside = logits[row_of, kept.ids.long()] / temperatures[row_of]
    with torch.no_grad():
        largest = inside.new_full(rows.shape, -torch.inf).scatter_reduce_(0, row_of, inside, "amax")
        member = torch.zeros_like(rows).index_add_(0, row_of, (kept.ids == token_ids[row_of]).long())
    total = inside.new_zeros(rows.shape).index_add(0, row_of, (inside - largest[row_of]).exp())
    drawn = logits[rows, token_ids] / temperatures
    return torch.where(member > 0, drawn - largest - total.log(), torch.nan)
