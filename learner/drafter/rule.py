"""How the engine turns the drafter's logits into q, so that the learner can train just that.

logits --/ T--> tempered --truncation--> q       (rollout/vllm_adapter/rows.py: `drafting`)
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rollout.draw.distribution import entropy
from rollout.draw.temperature import Fixed
from rollout.draw.truncation import Geometry, TopW, Truncation, TruncationRows, truncate


@dataclass(frozen=True, kw_only=True)
class DraftRule:
    """The run's own temperature and truncation, which its engines apply to the drafter's logits as to the policy's.

    Rule    T of a draft: of a temperature that looks at entropies, its answer to the drafter's own; of a learned one,
            that of the last token before the chain, which stays; of all others, the recorded one. Then truncation of
            the drafter's own tempered distribution.
    Source  ours: rollout/vllm_adapter/rows.py.
    Traps   a controller that moves a policy of entropies (log_pivot) is not known here: its drafts are trained at the
            recorded temperatures, which follow the policy's entropies instead of the drafter's. A strategy that draws
            some responses otherwise is known by their recorded temperatures alone.
    """

    temperature: Any = field(default_factory=Fixed)  # a policy or a controller of one
    truncation: Truncation | TopW = field(default_factory=Truncation)

    def temper(self, logits: Tensor, recorded: Tensor, last: Tensor) -> Tensor:
        """logits [row, vocab] / T; `recorded` [row] is of the token itself, `last` [row] of the one before the chain.

        Where a recorded temperature is 0 nothing was drawn by the policy and nothing is divided.
        """
        needs = getattr(self.temperature, "needs", frozenset())
        if "entropy" in needs:
            temperatures = self.temperature(entropy(logits))
        else:
            temperatures = last if "hidden" in needs else recorded
        return logits / torch.where(temperatures > 0, temperatures, 1.0).unsqueeze(-1)

    def drawn_from(self, tempered: Tensor, geometry: Geometry | None) -> Tensor:
        """q [row, vocab]. No gradient goes through the choice of what is cut."""
        if not self.truncation.active:
            return tempered.softmax(-1)
        rows = TruncationRows.of([self.truncation] * len(tempered), device=tempered.device)
        cut = truncate(tempered.detach(), rows, geometry).logits == -torch.inf
        return tempered.masked_fill(cut, -torch.inf).softmax(-1)

    def geometry(self, embedding: Tensor) -> Geometry | None:
        """Of the policy's input embeddings [vocab, channel], where the truncation looks at it."""
        return Geometry.of(embedding) if isinstance(self.truncation, TopW) else None
