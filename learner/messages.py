"""What crosses the border of the learner: train batches go in, step reports and publications come out."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSample:
    """One scored rollout. Arrays have one entry per response token and are aligned with `response_ids`.

    prompt_ids, response_ids  int32
    sampler_logprobs          float32 nats, under the distribution really sampled from
    temperatures              float32 > 0
    entropies                 float32 nats at T = 1, as the sampler saw it
    versions                  int32, of the weights that drew each token
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

    def __post_init__(self) -> None:
        length = len(self.response_ids)
        if length == 0 or len(self.prompt_ids) == 0:
            raise ValueError(f"a train sample of group {self.group} has an empty prompt or response")
        for name in ("sampler_logprobs", "temperatures", "entropies", "versions"):
            if len(getattr(self, name)) != length:
                raise ValueError(
                    f"train sample of group {self.group}: {name} has {len(getattr(self, name))} entries"
                    f" for {length} response tokens"
                )
        if not (self.temperatures > 0).all():
            raise ValueError(
                f"train sample of group {self.group} was drawn greedily (temperature 0): it cannot be trained"
            )


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
