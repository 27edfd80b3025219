"""The counters of an engine: of one that has done nothing yet, and of others."""

from rollout.messages import EngineMetrics

NEW = EngineMetrics(
    generated_tokens=0,
    running=0,
    waiting=0,
    capacity=512,
    busy_s=0.0,
    steps=0,
    kv_cache_usage=0.0,
    prompt_tokens=0,
    cached_prompt_tokens=0,
    preemptions=0,
    aborted=0,
    drafted_by_position=(),
    accepted_by_position=(),
    begun=0,
    step_s=0.0,
    aside_s=0.0,
    plain_steps=0,
    plain_tokens=0,
    plain_squared_tokens=0,
    plain_s=0.0,
    plain_token_s=0.0,
)


def engine(**values) -> EngineMetrics:
    """Like `NEW`, but for `values`."""
    return EngineMetrics(**{name: values.get(name, getattr(NEW, name)) for name in EngineMetrics.__dataclass_fields__})
