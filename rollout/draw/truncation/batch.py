"""One batch, many requests: each row is truncated by its own request's rule, and rows without one cost nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rollout.draw.truncation.tail import TailRows, Truncation
from rollout.draw.truncation.top_w import Geometry, TopW


@dataclass(frozen=True)
class Truncated:
    """What a truncation left of each row. `kept` and `log_mass` are computed when asked for."""

    logits: Tensor  # [rows, vocab], -inf outside the kept set, untouched inside
    before: Tensor  # [rows, vocab]

    @property
    def kept(self) -> Tensor:
        """int64 [rows]: tokens that may be drawn."""
        return (self.logits > -torch.inf).sum(-1)

    @property
    def log_mass(self) -> Tensor:
        """float32 [rows] nats, <= 0: ln of the mass the kept tokens held before the rest was cut off."""
        return (self.logits.logsumexp(-1) - self.before.logsumexp(-1)).clamp_max(0.0)


@dataclass(frozen=True)
class TruncationRows:
    """Which rows of a batch are cut and how. `index` None: all rows in order."""

    parts: tuple[tuple[Tensor | None, TailRows | TopW], ...]

    @classmethod
    def of(
        cls,
        truncations: Sequence[Truncation | TopW],
        counts: Sequence[int] | None = None,
        device: torch.device | str = "cpu",
    ) -> "TruncationRows | None":
        """One truncation per request, each for `counts` consecutive rows (default 1); None when none cuts anything."""
        if not any(truncation.active for truncation in truncations):
            return None
        if counts is not None:
            truncations = [one for one, count in zip(truncations, counts, strict=True) for _ in range(count)]
        rules: dict[TopW | None, list[int]] = {}  # None: min_p, top_k and top_p, which differ from row to row
        for row, truncation in enumerate(truncations):
            if truncation.active:
                rules.setdefault(truncation if isinstance(truncation, TopW) else None, []).append(row)
        return cls(
            tuple(
                (
                    None if len(rows) == len(truncations) else torch.tensor(rows, device=device),
                    rule or TailRows.of([truncations[row] for row in rows], device),
                )
                for rule, rows in rules.items()
            )
        )


def truncate(logits: Tensor, rows: TruncationRows | None, geometry: Geometry | None = None) -> Truncated:
    """Tempered logits [rows, vocab] float32 -> Truncated; with rows=None the same tensor and nothing computed.

    `geometry` is the model's, for TopW rows. Raises ValueError where it is wanted and missing.
    """
    after = logits
    for index, rule in rows.parts if rows is not None else ():
        part = logits if index is None else logits[index]
        part = rule.cut(part, geometry) if isinstance(rule, TopW) else rule.cut(part)
        after = part if index is None else after.index_copy(0, index, part)
    return Truncated(after, logits)
