"""Responses taken apart and put together: every token keeps the record of its own draw.

    Rollout --Passage.of--> Passage --cut, joined, handed to another context--> Passage --stitch--> Rollout

A record is worth training only where the token stands behind exactly the tokens it was drawn behind. Whoever moves
tokens says so (`as_context`); `stitch` turns that into `Rollout.policy_drawn` and into spans that never fall.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

import numpy as np

from rollout.messages import FinishReason, GroupRequest, HeadActions, KeptTokens, Rollout, VersionSpan


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """Consecutive response tokens, one entry each in every array; see Rollout for the units.

    drawn  bool: by the policy, behind the very tokens that stand before it now
    """

    ids: np.ndarray
    logprobs: np.ndarray
    temperatures: np.ndarray
    entropies: np.ndarray
    versions: np.ndarray
    drawn: np.ndarray
    kept: KeptTokens | None = None
    head: HeadActions | None = None

    @classmethod
    def of(cls, rollout: Rollout) -> "Passage":
        drawn = rollout.policy_drawn
        return cls(
            ids=rollout.response_ids,
            logprobs=rollout.sampler_logprobs,
            temperatures=rollout.temperatures,
            entropies=rollout.entropies,
            versions=rollout.versions,
            drawn=np.ones(len(rollout.response_ids), bool) if drawn is None else drawn,
            kept=rollout.kept,
            head=rollout.head,
        )

    @classmethod
    def forced(cls, ids: Sequence[int]) -> "Passage":
        """Tokens that nobody drew: certain, so logprob and entropy are 0; the temperature of 1 divides nothing."""
        zeros = np.zeros(len(ids), np.float32)
        return cls(
            ids=np.asarray(ids, np.int32),
            logprobs=zeros,
            temperatures=zeros + 1,
            entropies=zeros,
            versions=np.zeros(len(ids), np.int32),
            drawn=np.zeros(len(ids), bool),
        )

    @classmethod
    def join(cls, *parts: "Passage") -> "Passage":
        """One behind the other. Where only some have kept sets or head actions, the others get empty ones."""
        parts = parts or (NOTHING,)
        return cls(
            **{name: np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS},
            kept=_joined_kept(parts),
            head=_joined_head(parts),
        )

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, part: slice) -> "Passage":
        start, stop, step = part.indices(len(self))
        if step != 1:
            raise ValueError(f"a passage is cut into consecutive tokens, got the slice {part}")
        kept, head = self.kept, self.head
        if kept is not None:
            ends = np.concatenate(([0], np.cumsum(kept.counts)))
            kept = KeptTokens(ids=kept.ids[ends[start] : ends[max(start, stop)]], counts=kept.counts[part])
        if head is not None:
            head = HeadActions(changes=head.changes[part], logprobs=head.logprobs[part])
        return replace(self, **{name: getattr(self, name)[part] for name in _ARRAYS}, kept=kept, head=head)

    def as_context(self) -> "Passage":
        """The same tokens as something the policy did not draw here: moved, or another model's."""
        return replace(self, drawn=np.zeros(len(self), bool))


_ARRAYS = ("ids", "logprobs", "temperatures", "entropies", "versions", "drawn")
NOTHING = Passage.forced(())


def stitch(
    request: GroupRequest,
    index: int,
    passage: Passage,
    *,
    draws: Sequence[Rollout],
    version: int,
    finish_reason: FinishReason,
    decode: Callable[[Sequence[int]], str],
    seconds: float,
) -> Rollout:
    """A response to `request` made of `passage`.

    draws    everything engines drew for it, also what was thrown away: for the counts of speculative decoding
    version  stands for the whole response where the policy drew nothing of it
    Raises ValueError where tokens that the policy drew are not in the order of their versions.
    """
    histograms = zip_longest(*(draw.accepted_histogram for draw in draws), fillvalue=0)
    return Rollout(
        group_id=request.group_id,
        index=index,
        prompt_ids=request.prompt_ids,
        response_ids=passage.ids,
        sampler_logprobs=passage.logprobs,
        temperatures=passage.temperatures,
        entropies=passage.entropies,
        spans=_spans(_versions(passage, version)),
        text=decode(passage.ids.tolist()),
        finish_reason=finish_reason,
        drafted_tokens=sum(draw.drafted_tokens for draw in draws),
        accepted_histogram=tuple(sum(steps) for steps in histograms),
        seconds=seconds,
        policy_drawn=None if passage.drawn.all() else passage.drawn,
        kept=passage.kept,
        head=passage.head,
        stale_kv=any(draw.stale_kv for draw in draws),
    )


def _versions(passage: Passage, version: int) -> np.ndarray:
    """Of what the policy drew, its own; everything else goes with the drawn token before it, or the first of all."""
    places = np.flatnonzero(passage.drawn)
    if not len(places):
        return np.full(len(passage), version, np.int32)
    last_drawn = np.maximum(np.cumsum(passage.drawn) - 1, 0)
    return passage.versions[places[last_drawn]]


def _spans(versions: np.ndarray) -> tuple[VersionSpan, ...]:
    borders = [0, *(np.flatnonzero(np.diff(versions)) + 1).tolist(), len(versions)]
    return tuple(
        VersionSpan(version=int(versions[start]), start=start, end=end)
        for start, end in zip(borders, borders[1:], strict=False)
        if end > start
    )


def _joined_kept(parts: Sequence[Passage]) -> KeptTokens | None:
    if all(part.kept is None for part in parts):
        return None
    everything = np.zeros(0, np.int32)
    return KeptTokens(
        ids=np.concatenate([everything if part.kept is None else part.kept.ids for part in parts]),
        counts=np.concatenate(
            [np.zeros(len(part), np.int32) if part.kept is None else part.kept.counts for part in parts]
        ),
    )


def _joined_head(parts: Sequence[Passage]) -> HeadActions | None:
    if all(part.head is None for part in parts):
        return None
    return HeadActions(
        changes=np.concatenate(
            [np.zeros(len(part), bool) if part.head is None else part.head.changes for part in parts]
        ),
        logprobs=np.concatenate(
            [np.zeros(len(part), np.float32) if part.head is None else part.head.logprobs for part in parts]
        ),
    )
