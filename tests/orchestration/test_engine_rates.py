"""What the monitor is told of the engines: numbers worked out by hand from two looks at the counters."""

import numpy as np
import pytest

from orchestration.engine_rates import engine_rates, generated_tokens
from tests.orchestration.counters import NEW, engine

DREW = ((40, 0.7), (80, 1.0), (90, 1.2))  # tokens and seconds of the steps of rollout-0 that only drew, since BEFORE


BEFORE = {
    "rollout-0": engine(
        generated_tokens=1000,
        busy_s=5.0,
        steps=10,
        prompt_tokens=100,
        cached_prompt_tokens=10,
        preemptions=1,
        begun=20,
        step_s=4.5,
        aside_s=0.5,
        plain_steps=6,
        plain_tokens=600,
        plain_squared_tokens=60_000,
        plain_s=3.0,
        plain_token_s=300.0,
    ),
    "gone": engine(generated_tokens=7777, busy_s=100.0, preemptions=50),
}
NOW = {
    "rollout-0": engine(
        generated_tokens=3000,
        running=8,
        waiting=3,
        busy_s=9.0,
        steps=40,
        kv_cache_usage=0.25,
        prompt_tokens=300,
        cached_prompt_tokens=150,
        preemptions=3,
        aborted=4,
        drafted_by_position=(100, 80, 60),
        accepted_by_position=(50, 20, 6),
        begun=28,
        step_s=8.0,
        aside_s=0.75,
        plain_steps=6 + 3,
        plain_tokens=600 + sum(tokens for tokens, _ in DREW),
        plain_squared_tokens=60_000 + sum(tokens**2 for tokens, _ in DREW),
        plain_s=3.0 + sum(seconds for _, seconds in DREW),
        plain_token_s=300.0 + sum(tokens * seconds for tokens, seconds in DREW),
    ),
    "rollout-1": engine(
        generated_tokens=500,
        running=1,
        busy_s=3.0,
        steps=20,
        kv_cache_usage=0.75,
        prompt_tokens=100,
        cached_prompt_tokens=60,
        drafted_by_position=(20,),
        accepted_by_position=(10,),
        begun=1,
        step_s=2.5,
        aside_s=0.125,
        plain_steps=1,
        plain_tokens=30,
        plain_squared_tokens=900,
        plain_s=0.5,
        plain_token_s=15.0,
    ),
}


def test_differences_over_the_step_and_what_is_at_the_moment():
    """A worker that is gone counts no more, one that is new counts from 0, and draft positions are summed apart; the
    line through the steps that only drew is numpy's."""
    tokens, seconds = np.array([*DREW, (30, 0.5)]).T
    assert generated_tokens(BEFORE, NOW) == 2000 + 500
    assert engine_rates(BEFORE, NOW, step_s=10.0) == pytest.approx(
        {
            "rollout/running": 9,
            "rollout/waiting": 3,
            "rollout/kv_cache_usage": 0.75,
            "rollout/utilisation": (4.0 + 3.0) / 10.0 / 2,
            "rollout/batch": 2500 / (30 + 20),
            "rollout/begun": 8 + 1,
            "rollout/aside_s": 0.25 + 0.125,
            "rollout/decode_steps": 4,
            "rollout/decode_batch": 60,
            "rollout/decode_s": 0.85,
            "rollout/decode_batch_std": tokens.std(),
            "rollout/decode_token_s": np.polyfit(tokens, seconds, 1)[0],
            "rollout/turnover_steps": (30 - 3) + (20 - 1),
            "rollout/turnover_batch": (2000 - 210 + 500 - 30) / 46,
            "rollout/turnover_s": (3.5 - 2.9 + 2.5 - 0.5) / 46,
            "rollout/preemptions": 2,
            "rollout/aborted": 4,
            "rollout/prefix_hit_rate": (140 + 60) / (200 + 100),
            "rollout/acceptance_position_1": 60 / 120,
            "rollout/acceptance_position_2": 20 / 80,
            "rollout/acceptance_position_3": 6 / 60,
            "rollout/rollout-0/tokens_per_s": 200,
            "rollout/rollout-0/running": 8,
            "rollout/rollout-0/waiting": 3,
            "rollout/rollout-0/kv_cache_usage": 0.25,
            "rollout/rollout-1/tokens_per_s": 50,
            "rollout/rollout-1/running": 1,
            "rollout/rollout-1/waiting": 0,
            "rollout/rollout-1/kv_cache_usage": 0.75,
        }
    )


def test_a_rate_without_anything_to_divide_by_is_left_out():
    """No prompt tokens: no hit rate; one worker: no numbers of its own; no worker: nothing."""
    rates = engine_rates({}, {"rollout-0": NEW}, step_s=1.0)
    assert "rollout/prefix_hit_rate" not in rates
    assert not any(name.startswith("rollout/rollout-0/") for name in rates)
    assert engine_rates({}, {}, step_s=1.0) == {}
