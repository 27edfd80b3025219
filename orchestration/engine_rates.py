"""From the counters of the rollout engines to what one training step shows of them.

EngineMetrics of every worker, now and a step ago --> {"rollout/...": value}: sums and rates over all workers, and,
where there are several, the same four numbers of each as "rollout/<worker>/..."
"""

import math
from collections.abc import Mapping

from rollout.messages import EngineMetrics

Engines = Mapping[str, EngineMetrics]


def engine_rates(before: Engines, now: Engines, step_s: float) -> dict[str, float]:
    """Rates are over the `step_s` seconds in between; a worker that joined meanwhile counts from its start.

    running, waiting      responses, at the moment, of all workers
    kv_cache_usage        share of the key-value blocks in use, 0 to 1, at the moment, of the fullest worker
    utilisation           share of the time with something to decode, mean of the workers
    batch                 tokens drawn per engine step
    begun                 responses that drew their first token
    prefix_hit_rate       share of the prompt tokens whose keys and values were there already
    preemptions, aborted  responses
    acceptance_position_k share of the k-th drafts of a step (k = 1, 2, ...) that were kept

    What calibrates `temper plan`: engine steps that only draw (decode), and those in which responses begin or end, or
    that follow new weights (turnover).

    decode_steps, turnover_steps  how many
    decode_batch, turnover_batch  tokens drawn in one, mean
    decode_s, turnover_s          seconds of one, mean
    decode_batch_std              standard deviation of the tokens
    decode_token_s                seconds that one more token makes it longer: the slope of the least squares
    aside_s                       CPU seconds of the engines' processes while the engines were empty: responses, weights
    """
    if not now:
        return {}
    prompt, cached = (_gained(before, now, name) for name in ("prompt_tokens", "cached_prompt_tokens"))
    rates = {
        "rollout/running": float(sum(engine.running for engine in now.values())),
        "rollout/waiting": float(sum(engine.waiting for engine in now.values())),
        "rollout/kv_cache_usage": max(engine.kv_cache_usage for engine in now.values()),
        "rollout/utilisation": _gained(before, now, "busy_s") / step_s / len(now),
        "rollout/preemptions": _gained(before, now, "preemptions"),
        "rollout/aborted": _gained(before, now, "aborted"),
    }
    if steps := _gained(before, now, "steps"):
        rates["rollout/batch"] = generated_tokens(before, now) / steps
        rates["rollout/begun"] = _gained(before, now, "begun")
        rates["rollout/aside_s"] = _gained(before, now, "aside_s")
        rates |= _step_times(before, now)
    if prompt:
        rates["rollout/prefix_hit_rate"] = cached / prompt
    for position in range(max(len(engine.drafted_by_position) for engine in now.values())):
        drafted, accepted = (
            _gained(before, now, name, position) for name in ("drafted_by_position", "accepted_by_position")
        )
        if drafted:
            rates[f"rollout/acceptance_position_{position + 1}"] = accepted / drafted
    if len(now) > 1:
        for name, engine in now.items():
            rates[f"rollout/{name}/tokens_per_s"] = _gained(before, {name: engine}, "generated_tokens") / step_s
            rates[f"rollout/{name}/running"] = float(engine.running)
            rates[f"rollout/{name}/waiting"] = float(engine.waiting)
            rates[f"rollout/{name}/kv_cache_usage"] = engine.kv_cache_usage
    return rates


def _step_times(before: Engines, now: Engines) -> dict[str, float]:
    """Of the two kinds of engine steps; each is left out where there was none."""
    steps, tokens, seconds = (_gained(before, now, name) for name in ("plain_steps", "plain_tokens", "plain_s"))
    times = {}
    if steps:
        batch, decode_s = tokens / steps, seconds / steps
        variance = max(_gained(before, now, "plain_squared_tokens") / steps - batch**2, 0.0)
        covariance = _gained(before, now, "plain_token_s") / steps - batch * decode_s
        times["rollout/decode_steps"] = steps
        times["rollout/decode_batch"] = batch
        times["rollout/decode_s"] = decode_s
        times["rollout/decode_batch_std"] = math.sqrt(variance)
        times["rollout/decode_token_s"] = covariance / variance if variance else 0.0
    if others := _gained(before, now, "steps") - steps:
        times["rollout/turnover_steps"] = others
        times["rollout/turnover_batch"] = (generated_tokens(before, now) - tokens) / others
        times["rollout/turnover_s"] = (_gained(before, now, "step_s") - seconds) / others
    return times


def generated_tokens(before: Engines, now: Engines) -> float:
    """Tokens drawn in between by all workers that there are now."""
    return _gained(before, now, "generated_tokens")


def _gained(before: Engines, now: Engines, counter: str, position: int | None = None) -> float:
    """How much a counter, or one position of it, grew over all workers."""

    def value(engine: EngineMetrics | None) -> float:
        if engine is None:
            return 0.0
        found = getattr(engine, counter)
        if position is None:
            return float(found)
        return float(found[position]) if position < len(found) else 0.0

    return sum(value(engine) - value(before.get(name)) for name, engine in now.items())
