"""Speculative verification: several drafted tokens are accepted or replaced so that the target's distribution is exact.

    request b:  row 0        row 1        ...  row K_b             rows of the target, one after the other
                judges       judges            bonus, if all of
                draft 0      draft 1           the drafts passed
    accept draft y at its row with probability min(1, p(y) / q(y)); at the first rejection draw from the renormalised
    (p - q)+, with none rejected from the last row. Either way one draw of [requests, vocab] in all.

`p` is what the record says a token is drawn from: after temperature and truncation, a point mass for greedy rows
(`distribution.point_mass_`), so greedy requests need no branch: a draft passes iff it is the argmax.

Source  Leviathan et al. 2023, arXiv:2211.17192, and Chen et al. 2023, arXiv:2302.01318; grade K. Exactness holds for
        any q, as long as q is the distribution the draft was really drawn from: also after its temperature and top_k.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from rollout.draw.categorical import draw, uniforms

PLACEHOLDER = -1  # output ids behind the last emitted token


@dataclass(frozen=True)
class DraftLayout:
    """Where the target rows and drafts of each request lie, requests one after the other without gaps.

    Request b has `counts[b]` drafts (0 is allowed) and counts[b] + 1 target rows. All tables are [requests, K + 1],
    K the largest count: column j belongs to draft j, or to the bonus token where j = counts[b].
    """

    counts: Tensor  # int64 [requests]
    rows: Tensor  # int64: target row; behind the bonus column, the bonus row
    drafts: Tensor  # int64: index of the draft; from the bonus column on, some draft
    is_draft: Tensor  # bool
    judged: Tensor  # float32, is_draft as a factor
    positions: Tensor  # int64 [K + 1]: 0 .. K

    @staticmethod
    def of(counts: Sequence[int], device: torch.device | str = "cpu") -> "DraftLayout":
        """From the number of drafts of each request; layouts are cached."""
        return _layout(tuple(counts), str(device))


@lru_cache(maxsize=256)
def _layout(counts: tuple[int, ...], device: str) -> DraftLayout:
    number = torch.tensor(counts, dtype=torch.int64).unsqueeze(1)
    first_draft = number.cumsum(0) - number
    first_row = first_draft + torch.arange(len(counts)).unsqueeze(1)
    positions = torch.arange(max(counts) + 1)
    is_draft = positions < number
    return DraftLayout(
        counts=number.squeeze(1).to(device),
        rows=(first_row + torch.minimum(positions, number)).to(device),
        drafts=(first_draft + positions).clamp_max(max(sum(counts) - 1, 0)).to(device),
        is_draft=is_draft.to(device),
        judged=is_draft.float().to(device),
        positions=positions.to(device),
    )


class Randomness(NamedTuple):
    """All the chance of one step. For a seeded request, overwrite its row from its own generator."""

    accept: Tensor  # float32 [requests, K + 1] in [0, 1), one per draft
    draw: Tensor  # float64 [requests] in [0, 1), for the last token


def random_numbers(layout: DraftLayout, generator: torch.Generator | None = None) -> Randomness:
    """All the chance of a step over `layout`."""
    device = layout.counts.device
    return Randomness(
        torch.rand(layout.rows.shape, device=device, generator=generator),
        uniforms(layout.rows.shape[0], device=device, generator=generator),
    )


@dataclass(frozen=True)
class Verified:
    """What a speculative step emitted.

    accepted   int64 [requests]          drafts that passed, before the first that did not
    ids        int64 [requests, K + 1]   the accepted drafts, then one drawn token, then -1
    rows       int64 [requests, K + 1]   the target row each token was emitted at (behind the last: its row again);
                                         gather the record there (logprob = ln p[row, id], entropy, temperature)
    """

    accepted: Tensor
    ids: Tensor
    rows: Tensor

    def logprobs(self, target: Tensor) -> Tensor:
        """ln p [requests, K + 1] in nats of the emitted tokens under target [rows, vocab]; pads are meaningless."""
        return target.take(self.rows * target.shape[1] + self.ids.clamp_min(0)).log()


def verify(
    target: Tensor,
    draft_ids: Tensor,
    draft_probabilities: Tensor | None,
    layout: DraftLayout,
    random: Randomness,
) -> Verified:
    """Accept drafts and draw one more token for each request.

    target               float32 [drafts + requests, vocab], each row a distribution p
    draft_ids            int64 [drafts]
    draft_probabilities  float32 [drafts, vocab], the distributions q the drafts were drawn from; None: the drafts are
                         certain (n-gram lookup, argmax of a drafter), q is one-hot

    A draft whose q was lost may be given a one-hot row: judged like a certain one it passes with p(y) only, and what is
    emitted is still exactly p, whatever it was drawn from.
    """
    if draft_ids.numel() == 0:
        return Verified(accepted=layout.counts, ids=draw(target, random.draw).unsqueeze(1), rows=layout.rows)
    vocab = target.shape[1]
    ids = draft_ids.take(layout.drafts)
    bar = random.accept
    if draft_probabilities is not None:
        bar = bar * draft_probabilities.take((layout.drafts * vocab).add_(ids))
    passed = (bar < target.take((layout.rows * vocab).add_(ids))).logical_and_(layout.is_draft)
    accepted = passed.view(torch.int8).argmin(
        1, keepdim=True
    )  # the first that did not pass; the bonus column never does
    row, draft, rejected = (table.gather(1, accepted) for table in (layout.rows, layout.drafts, layout.judged))
    weights = target.index_select(0, row.squeeze(1))
    if draft_probabilities is None:
        drafted = draft_ids.take(draft)
        weights.scatter_(1, drafted, weights.gather(1, drafted) * (1.0 - rejected))
    else:
        weights.addcmul_(draft_probabilities.index_select(0, draft.squeeze(1)), rejected, value=-1.0).clamp_min_(0.0)
    token = draw(weights, random.draw)
    if bool((token == vocab).any()):
        token = _without_residual(token, target.index_select(0, row.squeeze(1)), random.draw)
    ids.scatter_(1, accepted, token.unsqueeze(1)).masked_fill_(layout.positions > accepted, PLACEHOLDER)
    return Verified(accepted=accepted.squeeze(1), ids=ids, rows=torch.minimum(layout.rows, row))


def by_position(layout: DraftLayout, accepted: Tensor) -> tuple[Tensor, Tensor]:
    """int64 [K] each: requests whose draft was judged (all before it passed), and those whose draft passed."""
    position, passed = layout.positions[:-1], accepted.unsqueeze(1)
    return ((passed >= position) & layout.is_draft[:, :-1]).sum(0), (passed > position).sum(0)


def _without_residual(token: Tensor, target: Tensor, uniforms: Tensor) -> Tensor:
    """Where rounding left nothing of p - q (equal, and the last bit rejected the draft), draw from p itself."""
    return torch.where(token == target.shape[1], draw(target, uniforms), token)
