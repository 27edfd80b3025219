"""Cutting and joining: no token ever loses or swaps its record, and spans always fit."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.draw.temperature import Fixed
from rollout.messages import FinishReason, GroupRequest, HeadActions, KeptTokens, Rollout, VersionSpan
from rollout.strategies.passage import NOTHING, Passage, stitch

REQUEST = GroupRequest(group_id="g", prompt_ids=(1, 5), n=1, max_tokens=64, temperature=Fixed())


@st.composite
def passages(draw, most: int = 12) -> Passage:
    """Every entry of every array is unlike the others, so that a swap shows; versions never fall."""
    length = draw(st.integers(0, most))
    start = draw(st.integers(0, 1000))
    line = np.arange(start, start + length)
    counts = np.array(draw(st.lists(st.integers(0, 3), min_size=length, max_size=length)), np.int32)
    kept = KeptTokens(ids=np.repeat(line, counts).astype(np.int32), counts=counts)
    head = HeadActions(changes=line % 3 == 0, logprobs=-line.astype(np.float32))
    versions = np.sort(np.array(draw(st.lists(st.integers(0, 4), min_size=length, max_size=length)), np.int32))
    return Passage(
        ids=line.astype(np.int32),
        logprobs=(-line / 8).astype(np.float32),
        temperatures=(line / 4).astype(np.float32),
        entropies=(line / 2).astype(np.float32),
        versions=versions,
        drawn=np.array(draw(st.lists(st.booleans(), min_size=length, max_size=length)), bool),
        kept=draw(st.sampled_from([kept, None])),
        head=draw(st.sampled_from([head, None])),
    )


def rows(passage: Passage) -> list[tuple]:
    """One tuple per token of everything it carries: what joining and cutting must not change."""
    kept, head = passage.kept, passage.head
    ends = None if kept is None else np.cumsum(kept.counts)
    return [
        (
            *(getattr(passage, one.name)[i].item() for one in fields(passage) if one.name not in ("kept", "head")),
            () if kept is None else tuple(kept.ids[ends[i] - kept.counts[i] : ends[i]].tolist()),
            (False, 0.0) if head is None else (head.changes[i].item(), head.logprobs[i].item()),
        )
        for i in range(len(passage))
    ]


def stitched(passage: Passage, **changes) -> Rollout:
    arguments = {
        "draws": (),
        "version": 9,
        "finish_reason": FinishReason.STOP,
        "decode": lambda ids: " ".join(map(str, ids)),
        "seconds": 1.0,
    } | changes
    return stitch(REQUEST, 3, passage, **arguments)


@given(st.lists(passages(), max_size=4), st.data())
def test_joining_and_cutting_keep_every_token_whole(parts, data):
    """A joined passage is its parts' tokens in order, and every cut of it those tokens and no other."""
    whole = Passage.join(*parts)
    expected = [row for part in parts for row in rows(part)]
    assert rows(whole) == expected
    start, stop = (data.draw(st.one_of(st.none(), st.integers(-60, 60))) for _ in range(2))
    assert rows(whole[start:stop]) == expected[start:stop]
    assert rows(Passage.join(whole[:stop], whole[stop:] if stop is not None else NOTHING)) == expected


@given(st.lists(passages(), max_size=4), st.integers(0, 4))
def test_spans_are_those_of_what_the_policy_drew(parts, first):
    """Tokens the policy drew keep their version whatever stands between them; the rest goes with its neighbours."""
    parts = [replace(part, versions=part.versions + 5 * place + first) for place, part in enumerate(parts)]
    whole = Passage.join(*parts)
    rollout = stitched(whole)  # raises where spans do not cover the response in order
    mine = whole.drawn
    assert (rollout.versions[mine] == whole.versions[mine]).all()
    assert set(rollout.versions) <= (set(whole.versions[mine]) if mine.any() else {9})
    drawn = np.ones(len(whole), bool) if rollout.policy_drawn is None else rollout.policy_drawn
    assert (drawn == mine).all()


def test_spans_by_hand():
    """Versions of context are covered over: 7 and 1 are another model's, 2 2 5 the policy's."""
    part = Passage.forced([10, 11, 12, 13, 14])
    part = replace(part, versions=np.array([7, 2, 1, 2, 5]), drawn=np.array([0, 1, 0, 1, 1], bool))
    assert stitched(part).spans == (
        VersionSpan(version=2, start=0, end=4),
        VersionSpan(version=5, start=4, end=5),
    )


def test_versions_that_fall_are_refused():
    """A record that claims old weights behind new ones is wrong, and no rollout is made of it."""
    part = replace(Passage.forced([10, 11]), versions=np.array([3, 2]), drawn=np.array([True, True]))
    with pytest.raises(ValueError, match="do not cover"):
        stitched(part)


def rollout_of(passage: Passage, **changes) -> Rollout:
    return replace(stitched(passage), **changes)


@given(passages())
def test_a_response_taken_apart_and_stitched_is_the_same(passage):
    """Passage.of and stitch are inverse, up to what stitch is told."""
    rollout = stitched(replace(passage, drawn=np.ones(len(passage), bool)))
    again = stitched(Passage.of(rollout))
    for one in fields(Rollout):
        if one.name in ("kept", "head"):
            assert rows(Passage.of(rollout)) == rows(Passage.of(again))
        else:
            assert np.array_equal(getattr(rollout, one.name), getattr(again, one.name))


def test_counts_of_all_draws_are_added():
    """Speculation counts every draw, also what was thrown away; one draw on stale keys marks the response."""
    empty = rollout_of(NOTHING)
    draws = [
        replace(empty, drafted_tokens=6, accepted_histogram=(1, 2)),
        replace(empty, drafted_tokens=3, accepted_histogram=(0, 0, 1), stale_kv=True),
    ]
    found = stitched(NOTHING, draws=draws)
    assert (found.drafted_tokens, found.accepted_histogram, found.stale_kv) == (9, (1, 2, 1), True)
    assert (found.index, found.group_id, found.prompt_ids) == (3, "g", (1, 5))


def test_forced_tokens_are_nobodys_and_harmless():
    """They are in the text, not in `policy_drawn`; a division by their temperature changes nothing."""
    found = stitched(Passage.forced([4, 5]))
    assert found.policy_drawn.tolist() == [False, False]
    assert (found.temperatures == 1).all()
    assert not found.sampler_logprobs.any()
    assert found.text == "4 5"


def test_only_consecutive_tokens_are_a_passage():
    """A stride would tear tokens from what they were drawn behind."""
    with pytest.raises(ValueError, match="consecutive"):
        Passage.forced([1, 2, 3])[::2]
