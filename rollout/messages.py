"""What crosses the border of the rollout service: group requests and weight updates go in, rollouts come out.

The `Rollout` is the contract of the whole system: for every generated token it says how the token was drawn. It is
built in one place (`rollout/vllm_adapter/record.py`) and its arrays are checked to be aligned when it is built.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from rollout.draw.temperature import Fixed, TemperaturePolicy
from rollout.draw.truncation import TopW, Truncation


class FinishReason(StrEnum):
    STOP = "stop"  # the policy ended the response itself
    LENGTH = "length"  # cut at max_tokens: the response is unfinished
    ABORT = "abort"  # ended by `abort`: it can go on as GroupRequest.partial


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRequest:
    """Draw `n` responses to one prompt.

    `temperature` and `truncation` decide what every token of this request alone is drawn from; `priority`: lower runs
    first, in the line before the engine and inside it. `partial`: go on with exactly these responses, which an abort
    ended early, under their own indices. Raises ValueError for what no engine could draw, or no learner train.
    """

    group_id: str
    prompt_ids: tuple[int, ...]
    n: int
    max_tokens: int
    temperature: TemperaturePolicy
    truncation: Truncation | TopW = Truncation()
    priority: int = 0
    trained: bool = False  # the learner will get these tokens; the run's strategy draws them
    second_temperature: TemperaturePolicy | None = None  # of the responses that strategy=second_rollout sets apart
    partial: tuple["Rollout", ...] = ()

    def __post_init__(self) -> None:
        if not self.prompt_ids:
            raise ValueError(f"group {self.group_id}: the prompt has no tokens: give it at least one")
        if self.n < 1 or self.max_tokens < 1:
            raise ValueError(
                f"group {self.group_id}: n and max_tokens are at least 1, got {self.n} and {self.max_tokens}"
            )
        if self.trained and self.temperature == Fixed(temperature=0.0):
            raise ValueError(
                f"group {self.group_id} is to be trained on but drawn at temperature 0, where every response is the"
                " same and has no probability to learn from: choose a temperature above 0"
            )
        if self.partial:
            self._check_partial()

    def _check_partial(self) -> None:
        if len(self.partial) != self.n or len({rollout.index for rollout in self.partial}) != self.n:
            raise ValueError(
                f"group {self.group_id} goes on with {len(self.partial)} responses, which should be n={self.n} of"
                " different indices"
            )
        for rollout in self.partial:
            if rollout.finish_reason is not FinishReason.ABORT or rollout.prompt_ids != self.prompt_ids:
                raise ValueError(
                    f"group {self.group_id} cannot go on with response {rollout.index}, which ended by"
                    f" {rollout.finish_reason}: only aborted responses to the same prompt go on"
                )
            if len(rollout.response_ids) >= self.max_tokens:
                raise ValueError(
                    f"group {self.group_id} cannot go on with response {rollout.index}: it has"
                    f" {len(rollout.response_ids)} tokens already and max_tokens is {self.max_tokens}"
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
    accepted_histogram: tuple[int, ...]  # [j]: verification steps that kept j drafts; empty without speculation or end
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
    """New weights for a running engine.

    `payload` is a safetensors file: its bytes, uint8 [bytes], in shared memory, or its path on a file system that the
    engine sees; `checksum` is the xxh3_128 of all its bytes. Or it is handles of tensors on the engine's own GPU and
    `checksum` their fingerprint (rollout/vllm_adapter/weights/gpu_memory.py). Or it is what an engine needs to fetch
    the file from the learner, as JSON (broadcast.py there).
    """

    version: int
    checksum: str
    payload: np.ndarray | str | bytes
    probe: Probe


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What of an update reached one model of an engine; with tensor parallelism, one rank's part of it."""

    parameters: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightConfirmation:
    """An engine's word that it now draws with `version`, whose bytes had `checksum`, and how far its probe was off.

    `policy` is all of the policy; `drafter` all layers that only drafting uses, None where there are none or none came.
    """

    worker: str
    version: int
    checksum: str
    policy: Taken
    drafter: Taken | None
    probe_error: float  # nats
    seconds: float  # from the arrival of the update to its proof
    paused_s: float  # of these, generation stood still


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineMetrics:
    """What one engine did and does. Counters are since its start; the monitor takes differences.

    Tokens count when they are drawn, those of aborted responses too. The two `_by_position` tuples have one entry per
    draft position, and are empty without speculation.
    """

    generated_tokens: int
    running: int  # responses that the engine decodes now
    waiting: int  # responses in front of that: in the engine's queue or in the line before it
    capacity: int  # responses the engine takes in; the others wait in the line
    busy_s: float  # with at least one response in the engine
    steps: int  # of the engine
    kv_cache_usage: float  # share of the key-value blocks in use after the last step, 0 to 1
    prompt_tokens: int  # looked up in the prefix cache
    cached_prompt_tokens: int  # found there
    preemptions: int  # responses that lost their keys and values, weight updates with recompute included
    aborted: int  # responses ended by `abort`
    drafted_by_position: tuple[int, ...]
    accepted_by_position: tuple[int, ...]
    begun: int  # responses that drew their first token
    step_s: float  # in steps: of `busy_s`, without the exchanges of weights
    aside_s: float  # CPU seconds of the process while the engine was empty; 0 where a process of its own steps it
    # Of the steps, those in which responses neither began nor ended, and that did not follow an exchange of weights.
    plain_steps: int
    plain_tokens: int
    plain_squared_tokens: int  # sum over these steps of the tokens drawn in a step, squared
    plain_s: float
    plain_token_s: float  # sum of tokens times seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineHealth:
    """`reason` says in one sentence why the engine is lost; empty while it is well."""

    reason: str
    running: int  # responses in the engine
    silent_s: float  # since the last sign of work; 0 while there is nothing to do

    @property
    def well(self) -> bool:
        return not self.reason
