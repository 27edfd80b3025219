"""What a controller learns of a training step: how unsure the policy was, and how random the draws were."""

import math
from dataclasses import dataclass

from torch import Tensor

from rollout.draw.temperature.log_pivot import PivotStatistics


@dataclass(frozen=True, kw_only=True)
class EntropyStats:
    """Over all response tokens of a training step. Every value is nats.

    mean   of the entropy at T = 1: the policy's own uncertainty
    drawn  of the entropy of the distributions the tokens were really drawn from, after temperature and truncation,
           estimated as the mean of -sampler_logprob, whose expectation it is
    pivot  HAPO's statistics of the entropy at T = 1, where a controller wants them
    """

    mean: float
    drawn: float
    pivot: PivotStatistics | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and math.isfinite(self.drawn)):
            raise ValueError(f"EntropyStats are finite nats, got mean {self.mean} and drawn {self.drawn}")

    @classmethod
    def of(cls, entropies: Tensor, sampler_logprobs: Tensor, quantile: float | None = None) -> "EntropyStats":
        """Recorded entropies and sampler logprobs [tokens] of a step -> EntropyStats. Raises ValueError without tokens.

        `quantile` is the controller's; None leaves the pivot out.
        """
        if entropies.numel() == 0:
            raise ValueError("entropy statistics want at least one response token, got a step without any")
        return cls(
            mean=entropies.double().mean().item(),
            drawn=-sampler_logprobs.double().mean().item(),
            pivot=None if quantile is None else PivotStatistics.of(entropies, quantile),
        )
