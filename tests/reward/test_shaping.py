"""The overlong penalty of DAPO, point by point."""

import pytest

from reward.shaping import OverlongPenalty


@pytest.mark.parametrize(
    ("tokens", "penalty"),
    [(1, 0.0), (80, 0.0), (81, -0.05), (85, -0.25), (90, -0.5), (99, -0.95), (100, -1.0), (130, -1.0)],
)
def test_the_penalty_grows_through_the_buffer(tokens, penalty):
    """Lmax 100, Lc 20: nothing up to 80, (80 - tokens) / 20 up to 100, -1 from there on."""
    assert OverlongPenalty(buffer_tokens=20)(tokens, 100) == pytest.approx(penalty)
    assert OverlongPenalty(buffer_tokens=20, factor=0.5)(tokens, 100) == pytest.approx(penalty / 2)
    assert OverlongPenalty(buffer_tokens=20, max_tokens=100)(tokens, 150) == pytest.approx(penalty)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"buffer_tokens": 0}, "buffer_tokens is at least 1"),
        ({"buffer_tokens": 9, "max_tokens": 8}, "at most max_tokens, got 9 with max_tokens 8"),
        ({"buffer_tokens": 1, "factor": 0.0}, "factor is above 0, got 0.0"),
    ],
)
def test_impossible_constants_are_refused(fields, sentence):
    """One sentence names the field and the value."""
    with pytest.raises(ValueError, match=sentence):
        OverlongPenalty(**fields)


@pytest.mark.parametrize(("buffer", "longest"), [(101, None), (5, 101)])
def test_a_penalty_that_does_not_fit_the_task_is_refused(buffer, longest):
    """A task that cuts responses at 100 tokens has no response of 101, and no buffer of 101."""
    with pytest.raises(ValueError, match=r"buffer_tokens <= max_tokens <= task\.max_tokens, got"):
        OverlongPenalty(buffer_tokens=buffer, max_tokens=longest).check(100)
