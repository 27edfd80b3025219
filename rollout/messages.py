"""What crosses the border of the rollout service: group requests and weight updates go in, rollouts come out.

The `Rollout` is the contract of the whole system: for every generated token it says how the token was drawn. It is
built in one place (`rollout/vllm_adapter/record.py`) and its arrays are checked to be aligned when it is built.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from rollout.draw.temperature import TemperaturePolicy
from rollout.draw.truncation import TopW, Truncation


class FinishReason(StrEnum):
    STOP = "stop"  # the policy ended the response itself
    LENGTH = "length"  # cut at max_tokens: the response is unfinished
    ABORT = "abort"


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRequest:
    """Draw `n` responses to one prompt.

    `temperature` and `truncation` decide what every token of this request alone is drawn from; `priority` is vLLM's,
    lower runs first.
    """

    group_id: str
    prompt_ids: tuple[int, ...]
    n: int
    max_tokens: int
    temperature: TemperaturePolicy
    truncation: Truncation | TopW = Truncation()
    priority: int = 0

    def __post_init__(self) -> None:
        if not self.prompt_ids:
            raise ValueError(f"group {self.group_id}: the prompt has no tokens")
        if self.n < 1 or self.max_tokens < 1:
            raise ValueError(
                f"group {self.group_id}: n and max_tokens are at least 1, got {self.n} and {self.max_tokens}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionSpan:
    """Tokens [start, end) of a response were drawn by the weights of `version`."""

    version: int
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptTokens:
    """The tokens that could be drawn at each response token under truncation (rollout/draw/truncation/kept.py).

    ids      int32 [kept tokens of all positions], position after position, rising within one
    counts   int32, one per response token; the whole vocabulary where nothing was cut is not listed: count 0
    """

    ids: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadActions:
    """What a learned temperature head did at each response token (rollout/draw/learned.py).

    changes    bool     it drew a new temperature; otherwise that of the token before stayed
    logprobs   float32  nats, of its action under the weights that took it
    """

    changes: np.ndarray
    logprobs: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One response and how each of its tokens was drawn. All arrays have one entry per response token.

    response_ids      int32   the tokens, end-of-sequence token included when the policy drew it
    sampler_logprobs  float32 nats, under the distribution really sampled from (after temperature, truncation,
    verification)
    temperatures      float32 what the logits were divided by; 0 means greedy (then the logprob is 0: a point mass)
    entropies         float32 nats, of the distribution at T = 1
    spans             cover [0, len) without gap or overlap, versions never fall
    policy_drawn      bool    False: another model, or nobody, drew it, so it is context and not trained; None: all True
    kept              what truncation left to draw from; None: everything
    head              the actions of a learned temperature head; None: there is none
    stale_kv          tokens behind an update attended to keys and values of older weights (rollout.kv_on_update=keep)
    """

    group_id: str
    index: int  # 0 <= index < n of the group
    prompt_ids: tuple[int, ...]
    response_ids: np.ndarray
    sampler_logprobs: np.ndarray
    temperatures: np.ndarray
    entropies: np.ndarray
    spans: tuple[VersionSpan, ...]
    text: str
    finish_reason: FinishReason
    drafted_tokens: int  # speculative decoding: proposed by the drafter
    accepted_histogram: tuple[int, ...]  # [j]: verification steps that kept j drafts; empty without speculation
    seconds: float  # from submission to the last token
    policy_drawn: np.ndarray | None = None
    kept: KeptTokens | None = None
    head: HeadActions | None = None
    stale_kv: bool = False

    def __post_init__(self) -> None:
        length = len(self.response_ids)
        aligned = {
            "sampler_logprobs": self.sampler_logprobs,
            "temperatures": self.temperatures,
            "entropies": self.entropies,
            "policy_drawn": self.policy_drawn,
            "kept.counts": self.kept and self.kept.counts,
            "head.changes": self.head and self.head.changes,
            "head.logprobs": self.head and self.head.logprobs,
        }
        for name, values in aligned.items():
            if values is not None and len(values) != length:
                raise ValueError(
                    f"rollout {self.group_id}/{self.index}: {name} has {len(values)} entries for {length} response"
                    " tokens"
                )
        edges = [0] + [span.end for span in self.spans]
        starts = [span.start for span in self.spans]
        versions = [span.version for span in self.spans]
        if starts != edges[:-1] or edges[-1] != length or versions != sorted(versions):
            raise ValueError(
                f"rollout {self.group_id}/{self.index}: version spans {self.spans} do not cover"
                f" {length} tokens in order"
            )

    @property
    def accepted_tokens(self) -> int:
        """Drafted tokens that the policy kept."""
        return sum(accepted * steps for accepted, steps in enumerate(self.accepted_histogram))

    @property
    def versions(self) -> np.ndarray:
        """int32, one per response token: the version of the weights that drew it."""
        per_token = np.empty(len(self.response_ids), np.int32)
        for span in self.spans:
            per_token[span.start : span.end] = span.version
        return per_token


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What the new weights say about one fixed prompt, computed by the learner: the engine must come to the same.

    A checksum proves that the bytes arrived; only a forward pass proves that the engine uses them (a tied head that
    keeps its old packed copy passes every checksum).
    """

    prompt_ids: tuple[int, ...]
    entropy: float  # nats, of the next token at T = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightUpdate:
    """New weights for a running engine: `payload` is a safetensors file as uint8[bytes], `checksum` its xxh3_128."""

    version: int
    checksum: str
    payload: np.ndarray
    probe: Probe


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightConfirmation:
    """An engine's word that it now draws with `version`, whose bytes had `checksum`, and how far its probe was off."""

    worker: str
    version: int
    checksum: str
    probe_error: float  # nats
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineMetrics:
    """Counters since the engine started; the monitor takes differences."""

    generated_tokens: int
    running: int  # responses in the engine, running or waiting
    busy_s: float  # time spent inside engine steps
