"""What is asked of math-verify ends in time, and says whose fault it is where it does not."""

import time

import pytest

from reward.math import library
from reward.math.library import Overrun, library_says, limited

SUM = r"\sum_{k=1}^{4} k"


def test_a_library_that_swallows_the_signal_is_stopped_again():
    """A bare except within sympy does not let an answer run on."""
    started = time.process_time()
    with pytest.raises(Overrun) as raised, limited("answer", 0.05):
        stubborn()
    assert raised.value.guilty == "answer"
    assert time.process_time() - started < 2.0


def stubborn() -> None:
    try:
        busy(1.0)
    except BaseException:
        busy(5.0)


def busy(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_the_timer_ends_with_the_work():
    """What comes later is not interrupted."""
    with limited("answer", 0.05):
        pass
    busy(0.2)


@pytest.mark.parametrize("fault", [MemoryError, RecursionError])
def test_memory_is_the_answers_fault_beside_a_reference_that_has_enough(monkeypatch, fault):
    """It is no way out of a group either."""
    assert library_says("10", SUM, 5.0)

    def fails(*_, **__):
        raise fault

    monkeypatch.setattr(library, "verify", fails)
    with pytest.raises(Overrun) as raised:
        library_says("10", SUM, 5.0)
    assert raised.value.guilty == "answer"
