"""What crosses the border of the learner: train batches go in, step reports and publications come out."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptTokens:
    """The tokens that could be drawn at each response token where the sampler cut the tail off.

    ids     int32 [kept tokens of all positions], position after position, rising within one
    counts  int32, one per response token; 0 where nothing was cut: the whole vocabulary, which is not listed
    """

    ids: np.ndarray
    counts: np.ndarray

    def __post_init__(self) -> None:
        if len(self.ids) != self.counts.sum() or (len(self.counts) and self.counts.min() < 0):
            raise ValueError(f"kept tokens list {len(self.ids)} ids but count {self.counts.sum()}")
        owner = np.repeat(np.arange(len(self.counts)), self.counts)
        if not ((np.diff(self.ids) > 0) | (np.diff(owner) > 0)).all():
            raise ValueError("kept tokens of one position should rise, got a position where they do not")

    def missing(self, token_ids: np.ndarray) -> np.ndarray:
        """bool [token]: cut, and yet not among its own kept tokens."""
        owner = np.repeat(np.arange(len(self.counts)), self.counts)
        found = np.bincount(owner[self.ids == token_ids[owner]], minlength=len(self.counts))
        return (self.counts > 0) & (found == 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadActions:
    """What a learned temperature head did at each response token (rollout/draw/learned.py).

    changes    bool     it drew a new temperature; otherwise that of the token before stayed
    logprobs   float32  nats, of its action under the weights that took it
    """

    changes: np.ndarray
    logprobs: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSample:
    """One scored rollout. Arrays have one entry per response token and are aligned with `response_ids`.

    prompt_ids, response_ids  int32
    sampler_logprobs          float32 nats, under the distribution really sampled from
    temperatures              float32 > 0 where trained
    entropies                 float32 nats at T = 1, as the sampler saw it
    versions                  int32, of the weights that drew each token
    trained                   bool, false for context: tokens that something else than the policy drew; None: all true
    kept                      what truncation left to draw from; None: everything
    head                      the actions of a learned temperature head; None: there is none
    teacher_prompt_ids        int32, the prompt with feedback in it, after which the policy teaches itself; None: no
                              feedback. Not aligned with the response
    """

    group: int  # samples of one prompt share it
    prompt_ids: np.ndarray
    response_ids: np.ndarray
    sampler_logprobs: np.ndarray
    temperatures: np.ndarray
    entropies: np.ndarray
    versions: np.ndarray
    reward: float
    unshaped: float  # the verifier's own reward, which filters by accuracy look at
    trained: np.ndarray | None = None
    kept: KeptTokens | None = None
    head: HeadActions | None = None
    teacher_prompt_ids: np.ndarray | None = None

    def __post_init__(self) -> None:
        length = len(self.response_ids)
        if length == 0 or len(self.prompt_ids) == 0:
            raise ValueError(f"a train sample of group {self.group} has an empty prompt or response")
        if self.teacher_prompt_ids is not None and len(self.teacher_prompt_ids) == 0:
            raise ValueError(f"a train sample of group {self.group} has an empty prompt with feedback")
        aligned = {
            "sampler_logprobs": self.sampler_logprobs,
            "temperatures": self.temperatures,
            "entropies": self.entropies,
            "versions": self.versions,
            "trained": self.trained,
            "kept.counts": self.kept and self.kept.counts,
            "head.changes": self.head and self.head.changes,
            "head.logprobs": self.head and self.head.logprobs,
        }
        for name, values in aligned.items():
            if values is not None and len(values) != length:
                raise ValueError(
                    f"train sample of group {self.group}: {name} has {len(values)} entries for {length} response tokens"
                )
        places = self.trained_places
        if not (self.temperatures[places] > 0).all():
            raise ValueError(
                f"train sample of group {self.group} has tokens drawn greedily (temperature 0): they cannot be trained"
            )
        lost = [] if self.kept is None else places[self.kept.missing(self.response_ids)[places]]
        if len(lost):
            raise ValueError(
                f"train sample of group {self.group}: response token {lost[0]} (id {self.response_ids[lost[0]]}) is not"
                " among the tokens that truncation left to draw from, so its record is wrong: do not train it"
            )

    @property
    def trained_places(self) -> np.ndarray:
        """int64, rising: the response tokens that are trained; every statistic is over them alone."""
        return np.arange(len(self.response_ids)) if self.trained is None else np.flatnonzero(self.trained)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainBatch:
    """Everything one learner step consumes: whole groups, in order of admission. `step`: the version it starts from."""

    step: int
    samples: tuple[TrainSample, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What one step did: the version it produced, and its metrics (name -> value, reduced over ranks)."""

    version: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """Weights ready to be sent: `checksum` is the xxh3_128 of the safetensors payload that travels beside this record.

    `probe_entropy` is the entropy, in nats at T = 1, of the next token after `probe_ids` under the new weights.
    """

    version: int
    checksum: str
    probe_ids: tuple[int, ...]
    probe_entropy: float
