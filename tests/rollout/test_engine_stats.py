"""What EngineStats makes of vLLM's statistics of a step, on a clock that the test turns."""

from types import SimpleNamespace

import pytest

from rollout.vllm_adapter import stats


class Clock:
    now = 50.0
    process_s = 9.0
    thread_s = 2.0

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return self.process_s

    def thread_time(self) -> float:
        return self.thread_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(stats, "time", clock)
    return clock


def record(counters: stats.EngineStats, tokens: int, running: int, prompts: int = 0, ended: int = 0) -> None:
    prefix = SimpleNamespace(queries=0, hits=0)
    counters.record(
        scheduler_stats=SimpleNamespace(
            num_running_reqs=running, kv_cache_usage=0.5, prefix_cache_stats=prefix, spec_decoding_stats=None
        ),
        iteration_stats=SimpleNamespace(
            num_generation_tokens=tokens,
            num_preempted_reqs=0,
            num_prompt_tokens=9 * prompts,
            time_to_first_tokens_iter=[0.1] * prompts,
            finished_requests=[object()] * ended,
        ),
    )


def test_steps_that_only_draw_are_timed_apart(clock):
    """An idle time, prompts of 8 responses, two steps that draw, one in which 4 responses end, an exchange of weights
    and the step after it, one that draws beside a part of a prompt, one more that draws."""
    admission = SimpleNamespace(busy_since=None, inside=0, waiting=0, capacity=8, busy_s=0.0)
    counters = stats.EngineStats(admission)
    clock.now += 100.0
    admission.busy_since = clock.now
    for seconds, tokens, running, prompts, ended in (
        (2.0, 8, 8, 8, 0),
        (1.0, 8, 8, 0, 0),
        (0.5, 7, 7, 0, 0),
        (16.0, 7, 3, 0, 4),
    ):
        clock.now += seconds
        record(counters, tokens, running, prompts, ended)
    clock.now += 10.0
    counters.exchanged()
    for seconds, tokens, running in ((4.0, 3, 3), (8.0, 3, 4), (0.25, 3, 3)):
        clock.now += seconds
        record(counters, tokens, running)
    found = counters.metrics(SimpleNamespace(admission=admission, aborted=0))
    assert (found.steps, found.begun, found.generated_tokens) == (7, 8, 8 + 8 + 7 + 7 + 9)
    assert found.step_s == pytest.approx(2.0 + 1.0 + 0.5 + 16.0 + 4.0 + 8.0 + 0.25)
    assert (found.plain_steps, found.plain_tokens) == (3, 8 + 7 + 3)
    assert found.plain_squared_tokens == 64 + 49 + 9
    assert found.plain_s == pytest.approx(1.0 + 0.5 + 0.25)
    assert found.plain_token_s == pytest.approx(8 * 1.0 + 7 * 0.5 + 3 * 0.25)


@pytest.mark.parametrize(("steps_here", "aside_s"), [(True, 2.25), (False, 0.0)])
def test_what_other_threads_do_counts_while_the_engine_is_empty(clock, steps_here, aside_s):
    """9 s of the process before the first step, 2 of them in this thread, do not count; nor does what is spent while
    one step follows the other; an empty time in which the process spends 3 s and this thread 0.75 of them does. Where a
    process of its own steps, the others take nothing from it."""
    admission = SimpleNamespace(busy_since=50.0, inside=0, waiting=0, capacity=8, busy_s=0.0)
    counters = stats.EngineStats(admission, steps_here=steps_here)
    for clock.now, clock.process_s, clock.thread_s, admission.busy_since in (
        (51.0, 9.0, 2.0, 50.5),
        (52.0, 10.0, 2.5, 50.5),
        (56.0, 13.0, 3.25, 54.0),
        (57.0, 14.0, 3.5, 54.0),
    ):
        record(counters, tokens=1, running=1)
    assert counters.metrics(SimpleNamespace(admission=admission, aborted=0)).aside_s == aside_s
