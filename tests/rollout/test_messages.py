"""The record of a draw refuses to exist misaligned."""

import dataclasses

import numpy as np
import pytest

from rollout.config import RolloutConfig
from rollout.draw.temperature import Fixed
from rollout.messages import FinishReason, GroupRequest, Rollout, VersionSpan


def rollout(**changes) -> Rollout:
    values = {
        "group_id": "g",
        "index": 0,
        "prompt_ids": (1, 2),
        "response_ids": np.array([5, 6, 7], np.int32),
        "sampler_logprobs": np.zeros(3, np.float32),
        "temperatures": np.ones(3, np.float32),
        "entropies": np.ones(3, np.float32),
        "spans": (VersionSpan(version=3, start=0, end=2), VersionSpan(version=4, start=2, end=3)),
        "text": "",
        "finish_reason": FinishReason.STOP,
        "drafted_tokens": 0,
        "accepted_histogram": (),
        "seconds": 0.1,
    }
    return Rollout(**values | changes)


def test_versions_follow_the_spans():
    """Each token carries the version of the span it lies in."""
    assert rollout().versions.tolist() == [3, 3, 4]


@pytest.mark.parametrize("name", ["sampler_logprobs", "temperatures", "entropies"])
def test_an_array_of_another_length_is_refused(name):
    """Every per-token array has exactly one entry per response token."""
    with pytest.raises(ValueError, match=f"{name} has 2 entries for 3"):
        rollout(**{name: np.zeros(2, np.float32)})


@pytest.mark.parametrize(
    "spans",
    [
        (),
        ((0, 0, 2),),
        ((0, 0, 2), (1, 1, 3)),
        ((0, 1, 3),),
        ((2, 0, 2), (1, 2, 3)),
    ],
    ids=["none", "too short", "overlap", "starts late", "version falls"],
)
def test_spans_must_cover_the_response_in_order(spans):
    """A gap, an overlap or a version that falls is refused."""
    with pytest.raises(ValueError, match="do not cover"):
        rollout(spans=tuple(VersionSpan(version=v, start=s, end=e) for v, s, e in spans))


def test_an_empty_prompt_is_refused():
    """A prompt without tokens is named before it reaches an engine."""
    with pytest.raises(ValueError, match="group g: the prompt has no tokens"):
        GroupRequest(group_id="g", prompt_ids=(), n=1, max_tokens=1, temperature=Fixed())


def test_keeping_old_keys_with_cached_prefixes_is_refused():
    """kv_on_update=keep would let cached prefixes of old weights serve new requests."""
    with pytest.raises(ValueError, match="needs rollout.prefix_caching=false"):
        RolloutConfig(kv_on_update="keep")
    assert dataclasses.replace(RolloutConfig(prefix_caching=False), kv_on_update="keep").kv_on_update == "keep"
