"""Where the reasoning ends."""

import pytest

from reward.thinking import after_thinking


@pytest.mark.parametrize(
    ("response", "rest"),
    [
        ("42", "42"),
        ("<think>a</think> 42", " 42"),
        ("a</think>42", "42"),  # the prompt's template opened it
        ("<think>a</think>b</think>c", "c"),
        ("<think>a", None),
        ("<think>a</think>b<think>c", None),
        ("", ""),
    ],
)
def test_what_follows_the_reasoning(response, rest):
    """The last closing tag counts; reasoning that is still open says nothing to the reader."""
    assert after_thinking(response) == rest
