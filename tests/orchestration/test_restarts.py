"""The budget of restarts: at once after a while of work, later after each early death, never more than allowed."""

from orchestration.restarts import LONGEST_PAUSE_S, SOON_S, WINDOW_S, Restarts


def deaths(restarts: Restarts, count: int, life_s: float) -> list[float | None]:
    """Pauses before the restarts of something that dies `life_s` after each of them."""
    now, pauses = 0.0, []
    for _ in range(count):
        pauses.append(restarts.pause(now))
        now += (pauses[-1] or 0.0) + life_s
    return pauses


def test_pauses_of_what_dies_young_double_and_are_bounded():
    restarts = Restarts(11)
    young = deaths(restarts, 12, life_s=0.0)
    assert young == [0.0, 0.5, 1, 2, 4, 8, 16, 32, *[LONGEST_PAUSE_S] * 3, None]


def test_what_has_worked_for_a_while_comes_back_at_once():
    assert deaths(Restarts(100), 100, life_s=SOON_S) == [0.0] * 100


def test_one_long_life_forgives_all_young_deaths():
    restarts = Restarts(10)
    assert [restarts.pause(now) for now in (0.0, 6.0, 12.0)] == [0.0, 0.5, 1.0]
    assert restarts.pause(13.0 + SOON_S) == 0.0
    assert restarts.pause(20.0 + SOON_S) == 0.5


def test_workers_of_one_lost_node_count_as_one_death():
    restarts = Restarts(2, together_s=5.0)
    assert [restarts.pause(now) for now in (0.0, 0.1, 0.2, 4.9)] == [0.0] * 4
    assert [restarts.pause(now) for now in (5.0, 6.0, 9.9)] == [0.5] * 3
    assert restarts.pause(10.0) is None


def test_an_hour_later_everything_is_allowed_again():
    restarts = Restarts(2)
    assert [restarts.pause(0.0), restarts.pause(10.0), restarts.pause(20.0)] == [0.0, 0.5, None]
    assert restarts.pause(WINDOW_S) == 0.0, "the one at 10 s still counts"
    assert restarts.pause(WINDOW_S + 9.0) is None
    assert restarts.pause(3 * WINDOW_S) == 0.0


def test_without_a_budget_there_is_no_restart():
    assert Restarts(0).pause(0.0) is None
