"""The budget of restarts: at once the first time, later each time, and never more than allowed within an hour."""

from orchestration.restarts import LONGEST_PAUSE_S, WINDOW_S, Restarts


def test_pauses_double_and_are_bounded():
    restarts = Restarts(12)
    assert [restarts.pause(0.0) for _ in range(12)] == [0.0, 0.5, 1, 2, 4, 8, 16, 32, *[LONGEST_PAUSE_S] * 4]
    assert restarts.pause(1.0) is None


def test_an_hour_later_everything_is_allowed_again():
    restarts = Restarts(2)
    assert [restarts.pause(0.0), restarts.pause(10.0), restarts.pause(20.0)] == [0.0, 0.5, None]
    assert restarts.pause(WINDOW_S) == 0.5, "the one at 10 s still counts"
    assert restarts.pause(WINDOW_S + 5.0) is None
    assert restarts.pause(3 * WINDOW_S) == 0.0


def test_without_a_budget_there_is_no_restart():
    assert Restarts(0).pause(0.0) is None
