"""Cutting the tail: min_p, top_k and top_p, in vLLM's order and with vLLM's borders.

    logits / T --min_p--> --top_k--> --top_p--> kept logits (-inf outside)

Rows of different requests have different parameters. The vocabulary is not sorted: only as many of its largest entries
are put in order as top_p needs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

_FIRST_PROBE = 64  # largest entries looked at for top_p; x16 while they do not hold enough mass
_PROBE_GROWTH = 16
_FEW = 1024  # entries: on a CPU, more than these are found faster by sorting them all
_OFF = torch.iinfo(torch.int64).max  # top_k of a row that does not use it


@dataclass(frozen=True, kw_only=True)
class Truncation:
    """Which tokens of a tempered distribution may be drawn; the defaults keep all of them.

    Rule    min_p keeps p >= min_p * max p; top_k of those the k most likely, ties at the k-th stay; top_p of those the
            fewest most likely whose mass reaches top_p, of equally likely ones at the border the higher ids.
    Source  vLLM 0.32 (MinPLogitsProcessor, apply_top_k_top_p), min-p arXiv:2407.01082; grade A-code.
    Units   top_p: mass in (0, 1], of what min_p and top_k left.  top_k: tokens, 0 is off.  min_p: ratio in [0, 1].
    Traps   acts after temperature, so a hot token keeps more tokens. top_p = 1, top_k = 0, min_p = 0 is off exactly.
    """

    name: ClassVar[str] = "truncation"
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"Truncation.top_p is a mass in (0, 1], got {self.top_p}")
        if isinstance(self.top_k, bool) or not isinstance(self.top_k, int) or self.top_k < 0:
            raise ValueError(f"Truncation.top_k is a number of tokens, 0 for all, got {self.top_k!r}")
        if not 0.0 <= self.min_p <= 1.0:
            raise ValueError(f"Truncation.min_p is a ratio of probabilities in [0, 1], got {self.min_p}")

    @property
    def active(self) -> bool:
        """Whether anything is cut off."""
        return self.top_p < 1.0 or self.top_k > 0 or self.min_p > 0.0


@dataclass(frozen=True)
class TailRows:
    """The parameters of a batch of rows; a column is None where no row uses it."""

    top_p: Tensor | None  # float64 [rows], 1 is off
    top_k: Tensor | None  # int64 [rows], the vocabulary's size or more is off
    log_min_p: Tensor | None  # float32 [rows] nats, -inf is off
    largest_top_k: int  # of the rows that use it

    @classmethod
    def of(cls, truncations: Sequence[Truncation], device: torch.device | str) -> "TailRows":
        """One truncation per row."""

        def column(values: list, off: float, dtype: torch.dtype) -> Tensor | None:
            used = any(value != off for value in values)
            return torch.tensor(values, dtype=dtype, device=device) if used else None

        log_min_p = [math.log(one.min_p) if one.min_p else -math.inf for one in truncations]
        return cls(
            top_p=column([one.top_p for one in truncations], 1.0, torch.float64),
            top_k=column([one.top_k or _OFF for one in truncations], _OFF, torch.int64),
            log_min_p=column(log_min_p, -math.inf, torch.float32),
            largest_top_k=max(one.top_k for one in truncations),
        )

    def cut(self, logits: Tensor) -> Tensor:
        """Tempered logits [rows, vocab] -> the same with -inf at every token that may not be drawn."""
        return _top_p(_min_p_top_k(logits, self), self)


def _min_p_top_k(logits: Tensor, rows: TailRows) -> Tensor:
    """Both are thresholds and the larger decides: min_p cuts a tail, which leaves the k-th largest where it was."""
    if rows.top_k is None and rows.log_min_p is None:
        return logits
    vocab = logits.shape[-1]
    floor = logits.new_full((logits.shape[0], 1), -torch.inf)
    if rows.top_k is None:
        largest = logits.amax(-1, keepdim=True)
    else:
        ordered = _largest(logits, min(rows.largest_top_k, vocab))
        largest = ordered[:, :1]
        kth = ordered.gather(-1, rows.top_k.clamp(max=ordered.shape[-1]).unsqueeze(-1) - 1)
        floor = torch.where(rows.top_k.unsqueeze(-1) < vocab, kth, floor)
    if rows.log_min_p is not None:
        floor = torch.maximum(floor, largest + rows.log_min_p.unsqueeze(-1))
    return logits.masked_fill(logits < floor, -torch.inf)


def _top_p(logits: Tensor, rows: TailRows) -> Tensor:
    """Cut at the value of the last token that top_p needs; equal values at that border are settled by token id."""
    if rows.top_p is None:
        return logits
    top_p = rows.top_p.unsqueeze(-1)
    off = top_p >= 1.0
    size = _probe(logits, _FIRST_PROBE if logits.shape[-1] > _FEW else logits.shape[-1])
    border, needed = _border(logits, top_p, logits.logsumexp(-1, keepdim=True), size)
    kept = logits.masked_fill(logits < border.masked_fill_(off, -torch.inf), -torch.inf)
    surplus = ((kept > -torch.inf).sum(-1, keepdim=True) - needed).masked_fill_(off, 0)
    tied = (surplus.squeeze(-1) > 0).nonzero().squeeze(-1)
    if tied.numel():
        at_border = kept[tied] == border[tied]
        lowest_ids = at_border & (at_border.cumsum(-1) <= surplus[tied])
        kept[tied] = kept[tied].masked_fill(lowest_ids, -torch.inf)
    return kept


def _probe(logits: Tensor, size: int) -> int:
    """How many of the largest entries to look at, rather than `size`."""
    vocab = logits.shape[-1]
    return vocab if size >= vocab or (logits.device.type == "cpu" and size > _FEW) else size


def _largest(logits: Tensor, size: int) -> Tensor:
    """The `size` largest of each row, falling: [rows, size].

    On a CPU numpy sorts with vector instructions, torch does not (128 x 320: 0.08 against 1.5 ms; 64 x 32k: 75 against
    580 ms, and 400 ms for the 16k largest).
    """
    if logits.device.type == "cpu" and (size > _FEW or size == logits.shape[-1]):
        return torch.from_numpy(-np.sort(-logits.numpy(), axis=-1))[:, :size]
    return logits.topk(size, -1).values


def _border(logits: Tensor, top_p: Tensor, normaliser: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The value [rows, 1] of the last token that top_p needs and how many it needs, found among the `size` largest.

    Rows whose largest do not hold enough mass look among more of them.
    """
    ordered = _largest(logits, size)
    mass = (ordered - normaliser).exp().double()
    running = mass.cumsum(-1)
    needed = (running - mass < top_p).sum(-1, keepdim=True).clamp_(min=1)
    border = ordered.gather(-1, needed - 1)
    if size < logits.shape[-1]:
        short = ((running[:, -1:] < top_p) & (top_p < 1.0)).squeeze(-1).nonzero().squeeze(-1)
        if short.numel():
            more = _probe(logits, size * _PROBE_GROWTH)
            border[short], needed[short] = _border(logits[short], top_p[short], normaliser[short], more)
    return border, needed
