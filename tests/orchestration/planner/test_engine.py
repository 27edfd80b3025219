"""The simulated engine against times worked out by hand, and against a simulation in small steps."""

import random

import pytest

from orchestration.planner.engine import NEVER, Engine

PACE = [0.0, 1.0, 1.5, 2.0, 2.5]  # seconds per token with 1, 2, 3, 4 responses running; more wait


def run(engine: Engine) -> list[tuple[float, int]]:
    """(time, group) of everything that is there, to the end."""
    ends = []
    while engine.look_ahead() != NEVER:
        at = engine.finish
        ends.append((at, engine.take_finished()[0]))
    return ends


def test_a_batch_that_shrinks_speeds_up():
    """Lengths 2 and 5: two tokens at 1.5 s each, then three more alone at 1 s: 3 s and 6 s."""
    engine = Engine("a", PACE, version=0, now=0.0)
    engine.add(0, [2], 0.0)
    engine.add(1, [5], 0.0)
    assert run(engine) == [(3.0, 0), (6.0, 1)]
    assert (engine.busy_s, engine.tokens) == (6.0, 7.0)


def test_a_group_ends_with_its_longest_response():
    """Three at once: 1 token x 2.0, 2 more x 1.5, 1 more x 1.0 = 6 s."""
    engine = Engine("a", PACE, version=0, now=10.0)
    engine.add(7, [1, 3, 4], 10.0)
    assert run(engine) == [(16.0, 7)]


def test_a_group_that_arrives_later_slows_the_others_from_then_on():
    """Length 4 alone until 2 s (2 tokens); then two run: the second ends at 2 + 1.5, the first 1 s later."""
    engine = Engine("a", PACE, version=0, now=0.0)
    engine.add(0, [4], 0.0)
    assert engine.look_ahead() == 4.0
    engine.add(1, [1], 2.0)
    assert run(engine) == [(3.5, 1), (4.5, 0)]


def test_the_line_takes_the_oldest_group_first():
    """Room for one: group 1 came later than 2 and runs before it; group 3, already running, is left alone."""
    engine = Engine("a", PACE[:2], version=0, now=0.0)
    engine.add(3, [2], 0.0)
    engine.add(2, [1], 0.0)
    engine.add(1, [1], 0.5)
    assert run(engine) == [(2.0, 3), (3.0, 1), (4.0, 2)]


def test_an_update_pauses_everything_and_marks_what_starts_after_it():
    """2 of 4 tokens are drawn by 2 s, then 3 s of pause: the end is 7 s. What waited starts with the new version."""
    engine = Engine("a", PACE[:2], version=4, now=0.0)
    engine.add(0, [4], 0.0)
    engine.add(1, [1], 0.0)
    engine.look_ahead()
    engine.update(5, 2.0, pause_s=3.0)
    assert engine.look_ahead() == 7.0
    assert engine.take_finished() == (0, 4)
    assert engine.look_ahead() == 8.0
    assert engine.take_finished() == (1, 5)
    assert engine.busy_s == 5.0


def test_a_prompt_and_an_end_hold_all_others_up():
    """Length 3 alone: 1 s for its prompt and until 3 s two tokens; another prompt until 4 s, which an update at 3.5 s
    waits for, and 2 s of pause; one token of both together until 7.5 s, which ends the first; its record until 8.5 s;
    one more token, and one more record."""
    engine = Engine("a", PACE, version=0, now=0.0, turnover_s=2.0)
    engine.add(0, [3], 0.0)
    assert engine.look_ahead() == 4.0
    engine.add(1, [2], 3.0)
    assert engine.update(1, 3.5, pause_s=2.0) == 6.0
    assert run(engine) == [(7.5, 0), (9.5, 1)]
    assert (engine.busy_s, engine.tokens) == (2 * 1.0 + 2.0 + 1.5 + 1.0 + 2 * 1.0, 5.0)


def test_a_prompt_from_the_line_is_read_when_its_turn_comes():
    """Room for one: 1 s prompt, 2 tokens and 1 s record, twice. Brought up to 4.5 s, in the middle of the second
    prompt, it goes on from there."""
    engine = Engine("a", PACE[:2], version=0, now=0.0, turnover_s=2.0)
    engine.add(0, [2, 2], 0.0)
    assert engine.look_ahead() == 7.0
    engine.advance(4.5)
    assert engine.tokens == 2.0
    assert run(engine) == [(7.0, 0)]
    assert (engine.busy_s, engine.tokens) == (8.0, 4.0)


def test_a_group_ends_before_the_prompt_of_its_successor_is_read():
    """Room for one: group 0 ends at 3 s, and leaves 1 s of work; group 1 takes its place and reads until 5 s; news at
    4.5 s finds it there."""
    engine = Engine("a", PACE[:2], version=0, now=0.0, turnover_s=2.0)
    engine.add(0, [2], 0.0)
    engine.add(1, [1], 0.0)
    assert engine.look_ahead() == 3.0
    assert engine.take_finished() == (0, 0)
    assert engine.update(1, 4.5, pause_s=0.5) == 5.5
    assert run(engine) == [(6.5, 1)]


def test_what_an_end_leaves_to_do_holds_up_the_next_start_only():
    """Room for one: group 0 ends at 2 s and leaves work until 5 s, when group 1 starts, and ends at 6 s; group 2 comes
    at 10 s, when the work that group 1 left is done, and starts at once; group 3 at 12 s waits until 14 s for what
    group 2 left."""
    engine = Engine("a", PACE[:2], version=0, now=0.0, aside_s=3.0)
    engine.add(0, [2], 0.0)
    engine.add(1, [1], 0.0)
    assert run(engine) == [(2.0, 0), (6.0, 1)]
    engine.add(2, [1], 10.0)
    assert run(engine) == [(11.0, 2)]
    engine.add(3, [1], 12.0)
    assert run(engine) == [(15.0, 3)]


def test_looking_ahead_changes_nothing():
    """The same engine looked at ten times on the way ends its groups when one looked at once does."""
    often, once = (Engine("a", PACE, version=0, now=0.0) for _ in range(2))
    for engine in (often, once):
        engine.add(0, [3, 5, 9, 2, 2, 7], 0.0)
    for tenth in range(10):
        often.look_ahead()
        often.advance(tenth / 10)
    assert run(often) == [(pytest.approx(at), group) for at, group in run(once)]


def test_random_arrivals_against_small_steps():
    """Virtual time equals moving every response forward by time / pace in steps of a ten-thousandth of a second."""
    generator = random.Random(3)
    arrivals = [(round(generator.uniform(0, 6), 3), [generator.randint(1, 6) for _ in range(2)]) for _ in range(6)]
    arrivals.sort()
    engine, ends = Engine("a", PACE, version=0, now=0.0), []
    for group, (at, lengths) in enumerate(arrivals):
        while engine.look_ahead() < at:
            ends.append((engine.finish, engine.take_finished()[0]))
        engine.add(group, lengths, at)
    ends += run(engine)
    assert ends == [(pytest.approx(at, abs=0.02), group) for at, group in small_steps(arrivals)]


def small_steps(arrivals: list[tuple[float, list[int]]], step: float = 1e-3) -> list[tuple[float, int]]:
    running, line, ends, now = [], [], [], 0.0  # [tokens to go, group]
    coming = list(enumerate(arrivals))
    while coming or running or line:
        while coming and coming[0][1][0] <= now:
            group, (_, lengths) = coming.pop(0)
            line += [[length, group] for length in lengths]
        while line and len(running) < len(PACE) - 1:
            running.append(line.pop(0))
        now += step
        pace = PACE[len(running)] if running else 1.0
        for response in running:
            response[0] -= step / pace
        gone = {group for left, group in running if left <= 0}
        running = [response for response in running if response[0] > 0]
        ends += [(now, group) for group in sorted(gone) if not any(group == g for _, g in running + line)]
    return ends
