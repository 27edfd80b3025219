"""RolloutConfig: every knob of the rollout service, its default and its unit, written once."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """How rollouts are generated. Raises ValueError for combinations that cannot work."""

    workers: int = 1  # Ray actors, one engine each
    engine: Literal["in_process", "async_llm"] = (
        "in_process"  # in_process starts faster; async_llm overlaps I/O on a GPU
    )
    dtype: Literal["float32", "bfloat16"] = "float32"
    tensor_parallel: int = 1  # GPUs per engine
    max_model_len: int = 2048  # tokens, prompt and response together
    max_num_seqs: int = 256  # responses decoded at the same time per engine
    kv_cache_gib: float = 0.5  # memory for keys and values per engine
    enforce_eager: bool = True  # false lets vLLM compile: minutes to start, faster on a GPU
    prefix_caching: bool = True
    # What running requests do with keys and values computed by the old weights. `recompute` keeps every recorded
    # logprob equal to the new weights' own; `keep` is cheaper and records what was really sampled from.
    kv_on_update: Literal["recompute", "keep"] = "recompute"
    threads: int = 1  # CPU threads per engine
    num_gpus: float = 0.0  # GPUs Ray reserves per engine
    start_deadline_s: float = 600.0
    request_deadline_s: float = 600.0  # the longest a group may take
    probe_tolerance: float = 1e-3  # nats between engine and learner on the probe prompt after a weight update

    def __post_init__(self) -> None:
        if self.kv_on_update == "keep" and self.prefix_caching:
            raise ValueError(
                "rollout.kv_on_update=keep needs rollout.prefix_caching=false: cached prefixes of the old weights"
                " would silently serve new requests"
            )
        for name in ("workers", "tensor_parallel", "max_model_len", "max_num_seqs", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"rollout.{name} is at least 1, got {getattr(self, name)}")
        if self.kv_cache_gib <= 0:
            raise ValueError(f"rollout.kv_cache_gib is positive, got {self.kv_cache_gib}")
