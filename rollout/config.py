"""RolloutConfig and SpeculativeConfig: every knob of the rollout service, its default and its unit, written once."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class SpeculativeConfig:
    """How tokens are drafted ahead and verified. Whatever drafts, what is drawn is exactly the policy's.

    method   none; mtp: the model's own multi-token-prediction layers; draft_model: a smaller model of the same
             vocabulary; ngram: what followed the same words earlier in the text
    tokens   drafted a step, at most
    adaptive how many of them pay is measured while the engine runs, by batch size and acceptance: 0 to `tokens`
    drafts   probabilistic: drawn from the drafter's distribution, at the temperature the request's policy gives it, and
             accepted with probability min(1, p/q); greedy: the drafter's most likely token, accepted with probability p
    model    folder of the draft model
    """

    method: Literal["none", "mtp", "draft_model", "ngram"] = "none"
    tokens: int = 3
    adaptive: bool = False
    drafts: Literal["probabilistic", "greedy"] = "probabilistic"
    model: str | None = None
    ngram_min: int = 2  # tokens that must repeat before a continuation is proposed
    ngram_max: int = 4

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise ValueError(f"speculative.tokens is at least 1, got {self.tokens}: speculative=none turns drafts off")
        if (self.method == "draft_model") != (self.model is not None):
            raise ValueError(
                "speculative.model is the folder of the draft model and belongs to speculative.method=draft_model"
                f" alone, got method {self.method} and model {self.model}"
            )
        if not 1 <= self.ngram_min <= self.ngram_max:
            raise ValueError(
                f"speculative.ngram_min is at least 1 and at most ngram_max, got {self.ngram_min} and {self.ngram_max}"
            )


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """How rollouts are generated. Raises ValueError for combinations that cannot work."""

    workers: int = 1  # Ray actors, one engine each
    engine: Literal["in_process", "async_llm"] = (
        "in_process"  # in_process starts faster; async_llm overlaps I/O on a GPU
    )
    # vLLM's model runner, in which the draw is installed. v2 is vLLM's default on GPUs, fuses the temperature into one
    # pass over the logits, and has not been run: it knows no truncation and no learned temperature.
    model_runner: Literal["v1", "v2"] = "v1"
    dtype: Literal["float32", "bfloat16"] = "float32"
    tensor_parallel: int = 1  # GPUs per engine
    max_model_len: int = 2048  # tokens, prompt and response together
    max_num_seqs: int = 256  # responses decoded at the same time per engine
    max_queued_seqs: int = 256  # responses that wait inside the engine besides; more wait in the line before it
    kv_cache_gib: float = 0.5  # memory for keys and values per engine
    enforce_eager: bool = True  # false lets vLLM compile: minutes to start, faster on a GPU
    prefix_caching: bool = True
    # What running requests do with keys and values computed by the old weights. `recompute` keeps every recorded
    # logprob equal to the new weights' own; `keep` is cheaper and records what was really sampled from.
    kv_on_update: Literal["recompute", "keep"] = "recompute"
    # How new weights come. shared_memory: Ray's object store, which spans hosts by copying; shared_files: safetensors
    # in a folder that the learner and all workers see; cuda_ipc: handles of memory on a GPU they share; broadcast: each
    # engine fetches them from the learner's memory, over NCCL between GPUs and gloo between CPUs.
    transport: Literal["shared_memory", "shared_files", "cuda_ipc", "broadcast"] = "shared_memory"
    transport_folder: str | None = None  # for shared_files, this run's own; null: `weights` in the run's folder
    sleep: bool = False  # give a shared GPU's memory to the learner while it trains; needs run.max_staleness=0
    threads: int = 1  # CPU threads per engine
    num_gpus: float = 0.0  # GPUs Ray reserves per engine
    start_deadline_s: float = 600.0
    request_deadline_s: float = 600.0  # the longest a group may take
    health_every_s: float = 15.0  # whoever waits for a rollout asks after the engine this often
    health_deadline_s: float = 30.0  # an engine that has not answered by then is lost
    stuck_after_s: float = 120.0  # an engine that holds responses and takes no step for so long is lost
    probe_tolerance: float = 1e-3  # nats between engine and learner on the probe prompt after a weight update

    def __post_init__(self) -> None:
        if self.kv_on_update == "keep" and self.prefix_caching:
            raise ValueError(
                "rollout.kv_on_update=keep needs rollout.prefix_caching=false: cached prefixes of the old weights"
                " would silently serve new requests"
            )
        if self.transport == "cuda_ipc" and self.num_gpus <= 0:
            raise ValueError(
                "rollout.transport=cuda_ipc hands over memory of a GPU, but rollout.num_gpus=0: give the engines the"
                " learner's GPU, or leave rollout.transport=shared_memory"
            )
        if self.transport_folder is not None and self.transport != "shared_files":
            raise ValueError(
                "rollout.transport_folder belongs to rollout.transport=shared_files alone, got"
                f" rollout.transport={self.transport}"
            )
        for name in ("workers", "tensor_parallel", "max_model_len", "max_num_seqs", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"rollout.{name} is at least 1, got {getattr(self, name)}")
        if self.max_queued_seqs < 0:
            raise ValueError(f"rollout.max_queued_seqs is at least 0, got {self.max_queued_seqs}")
        for name in ("start", "request", "health"):
            if not (value := getattr(self, f"{name}_deadline_s")) > 0:
                raise ValueError(f"rollout.{name}_deadline_s is positive, got {value}")
        for name in ("health_every_s", "stuck_after_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"rollout.{name} is positive, got {getattr(self, name)}")
        if self.kv_cache_gib <= 0:
            raise ValueError(f"rollout.kv_cache_gib is positive, got {self.kv_cache_gib}")
