"""Two parts of one response become one record, every array of it aligned."""

from dataclasses import replace

import numpy as np
import pytest

from rollout.continuation import joined, not_begun, rest_of
from rollout.draw.temperature import Fixed, Learned
from rollout.errors import RequestError
from rollout.messages import FinishReason, GroupRequest, HeadActions, KeptTokens, Rollout, VersionSpan

REQUEST = GroupRequest(group_id="g", prompt_ids=(7, 8), n=1, max_tokens=5, temperature=Fixed())


def part(*spans: tuple[int, int], start: int = 0, **more) -> Rollout:
    """Tokens start, start + 1, ...; `spans`: (version, tokens)."""
    edges = np.cumsum([0, *(tokens for _, tokens in spans)]).tolist()
    ids = np.arange(start, start + edges[-1], dtype=np.int32)
    columns = {"sampler_logprobs": -ids - 1.0, "temperatures": ids + 0.5, "entropies": ids + 0.25}
    return replace(
        not_begun(REQUEST, 3),
        response_ids=ids,
        spans=tuple(
            VersionSpan(version=version, start=edges[i], end=edges[i + 1]) for i, (version, _) in enumerate(spans)
        ),
        **{name: values.astype(np.float32) for name, values in columns.items()},
        **more,
    )


def join(first: Rollout, second: Rollout) -> Rollout:
    return joined(first, second, lambda ids: "-".join(map(str, ids)))


def test_the_rest_is_asked_for_behind_the_tokens_there_are():
    """Prompt and drawn tokens are the new prompt; what is left of max_tokens is what may still be drawn."""
    rest = rest_of(REQUEST, part((0, 3), start=40))
    assert (rest.prompt_ids, rest.max_tokens, rest.n) == ((7, 8, 40, 41, 42), 2, 1)
    assert rest.temperature == REQUEST.temperature


def test_a_learned_temperature_goes_on_from_the_last_one():
    """A token that keeps its temperature keeps that of the token before the break, not tau_0."""
    request = replace(REQUEST, temperature=Learned(tau_min=0.25, tau_0=1.25))
    assert rest_of(request, part((0, 2))).temperature == Learned(tau_min=0.25, tau_0=1.5)
    assert rest_of(request, part()).temperature == Learned(tau_min=0.25, tau_0=1.25)


def test_the_parts_follow_each_other():
    """Ids, logprobs, temperatures, entropies, text, counts and seconds; the end is the second part's."""
    first = part((0, 2), drafted_tokens=4, accepted_histogram=(1, 2), seconds=1.5)
    second = part(
        (0, 1), (1, 2), start=2, drafted_tokens=5, accepted_histogram=(0, 1, 3), seconds=2.0, text="never read"
    )
    whole = join(first, replace(second, finish_reason=FinishReason.LENGTH, group_id="later", stale_kv=True))
    assert whole.response_ids.tolist() == [0, 1, 2, 3, 4]
    assert whole.sampler_logprobs.tolist() == [-1.0, -2.0, -3.0, -4.0, -5.0]
    assert whole.temperatures.tolist() == [0.5, 1.5, 2.5, 3.5, 4.5]
    assert whole.entropies.tolist() == [0.25, 1.25, 2.25, 3.25, 4.25]
    assert whole.versions.tolist() == [0, 0, 0, 1, 1]
    assert [(span.version, span.start, span.end) for span in whole.spans] == [(0, 0, 3), (1, 3, 5)]
    assert (whole.text, whole.finish_reason, whole.seconds) == ("0-1-2-3-4", FinishReason.LENGTH, 3.5)
    assert (whole.drafted_tokens, whole.accepted_histogram) == (9, (1, 3, 3))
    assert (whole.group_id, whole.index, whole.stale_kv) == ("later", 3, True)


@pytest.mark.parametrize("empty_first", [True, False])
def test_an_empty_part_changes_nothing(empty_first):
    """A response that had not begun, or that drew nothing more, is the other part alone."""
    nothing, something = part(), part((2, 3))
    whole = join(*((nothing, something) if empty_first else (something, nothing)))
    assert whole.response_ids.tolist() == [0, 1, 2]
    assert whole.versions.tolist() == [2, 2, 2]


def test_what_only_one_part_has_is_filled_up_with_what_it_means():
    """No mask means all by the policy, no kept sets mean nothing was cut (count 0)."""
    kept = KeptTokens(ids=np.array([5, 6, 9], np.int32), counts=np.array([2, 1], np.int32))
    masked = part((0, 2), start=2, policy_drawn=np.array([False, True]), kept=kept)
    whole = join(part((0, 2)), masked)
    assert whole.policy_drawn.tolist() == [True, True, False, True]
    assert (whole.kept.ids.tolist(), whole.kept.counts.tolist()) == ([5, 6, 9], [0, 0, 2, 1])
    whole = join(replace(masked, response_ids=masked.response_ids), part((0, 1), start=4))
    assert whole.policy_drawn.tolist() == [False, True, True]
    assert (whole.kept.ids.tolist(), whole.kept.counts.tolist()) == ([5, 6, 9], [2, 1, 0])
    assert join(part((0, 1)), part((0, 1))).kept is None


def head(*changes: bool) -> HeadActions:
    return HeadActions(changes=np.array(changes), logprobs=np.array([-0.5] * len(changes), np.float32))


def test_a_heads_actions_are_joined_and_never_invented():
    """Both parts have them, or the one without has no tokens; otherwise the policy was changed in between."""
    whole = join(part((0, 2), head=head(True, False)), part((0, 1), start=2, head=head(True)))
    assert whole.head.changes.tolist() == [True, False, True]
    assert whole.head.logprobs.tolist() == [-0.5] * 3
    assert join(part(), part((0, 1), head=head(True))).head.changes.tolist() == [True]
    with pytest.raises(RequestError, match="drawn partly with and partly without a temperature head"):
        join(part((0, 1)), part((0, 1), head=head(True)))


def test_versions_never_fall():
    """A worker with older weights than those that began a response may not go on with it."""
    with pytest.raises(RequestError, match="g/3 has tokens of v4 and cannot go on with v3: send it to a worker"):
        join(part((4, 2)), part((3, 1), start=2))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"finish_reason": FinishReason.STOP}, "which ended by stop: only aborted responses"),
        ({"prompt_ids": (7, 9)}, "only aborted responses to the same prompt go on"),
    ],
)
def test_only_an_aborted_response_to_the_same_prompt_goes_on(change, sentence):
    """Anything else is refused when the request is made."""
    with pytest.raises(ValueError, match=sentence):
        replace(REQUEST, partial=(replace(part((0, 2)), **change),))


def test_requests_say_what_they_cannot_be():
    """An empty prompt, nothing to draw, full or repeated partial responses, greedy for training: one sentence each."""
    for change, sentence in (
        ({"prompt_ids": ()}, "group g: the prompt has no tokens"),
        ({"n": 0}, "n and max_tokens are at least 1"),
        ({"max_tokens": 0}, "n and max_tokens are at least 1"),
        ({"trained": True, "temperature": Fixed(temperature=0.0)}, "to be trained on but drawn at temperature 0"),
        ({"partial": (part((0, 5)),)}, "it has 5 tokens already and max_tokens is 5"),
        (
            {"partial": (part((0, 1)),) * 2, "n": 2},
            "goes on with 2 responses, which should be n=2 of different indices",
        ),
        ({"partial": (part((0, 1)),), "n": 2}, "goes on with 1 responses, which should be n=2"),
    ):
        with pytest.raises(ValueError, match=sentence):
            replace(REQUEST, **change)
