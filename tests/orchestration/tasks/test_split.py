"""The split that decides who is held out."""

import pytest

from orchestration.tasks.errors import TaskError
from orchestration.tasks.split import check_fraction, fingerprint, is_heldout

TEXTS = [f"prompt number {number}" for number in range(4000)]


def test_the_fingerprint_never_changes():
    """A fingerprint is blake2b with 8 bytes of output (the constant is from `b2sum -l 64`): old splits stay valid."""
    assert fingerprint("a and b then or c") == "916f5d9f0e916918"


def test_white_space_around_a_prompt_cannot_move_it_to_the_other_side():
    """Texts that differ only in surrounding white space have one fingerprint."""
    assert fingerprint("  a and b\n") == fingerprint("a and b")


def test_about_the_fraction_is_held_out():
    """Of 4000 texts at a fraction of 0.125, 500 are expected and the count is within four standard deviations (84)."""
    assert abs(sum(is_heldout(text, 0.125) for text in TEXTS) - 500) < 84


def test_a_larger_fraction_keeps_what_a_smaller_one_held_out():
    """Raising the fraction only adds held-out texts."""
    small = {text for text in TEXTS if is_heldout(text, 0.1)}
    large = {text for text in TEXTS if is_heldout(text, 0.3)}
    assert small < large


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, float("nan")])
def test_a_fraction_that_empties_one_side_is_refused(fraction):
    """Fractions outside (0, 1) are refused, and the message names the owner."""
    with pytest.raises(TaskError, match="Owner.heldout_fraction"):
        check_fraction("Owner", fraction)
