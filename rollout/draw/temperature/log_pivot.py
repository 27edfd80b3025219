"""HAPO's adaptive temperature: how far a token's log-entropy lies from the last batch's pivot.

The statistics are of the previous training step's whole batch (`PivotStatistics.of`); the controller
`rollout/draw/control/log_pivot_from_batch.py` carries them from the step to the next requests.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

ENTROPY_FLOOR = 1e-8  # nats: the log of a certain token's entropy must stay finite (HAPO's constant)


@dataclass(frozen=True, kw_only=True)
class PivotStatistics:
    """What a batch's log-entropies say to the next batch's temperatures.

    Rule    x = ln(max(H, 1e-8)); pivot = Quantile_q(x), nearest rank; rms = sqrt(mean((x - pivot)^2));
            h = (x - pivot) / rms; scale_positive = max(h); scale_negative = |min(h)|
    Source  HAPO, arXiv:2509.16591, grade A-code (starriver030515/HAPO, core_algos.py compute_entropy_h).
    Units   pivot, rms: natural log of nats.  scales: multiples of rms, > 0.
    Traps   rms is about the pivot, not the mean. A batch with no token on one side of the pivot has no scale there:
            it is 1 (rms itself). Use the entropies of the whole batch; micro-batch statistics depend on its size.
    """

    pivot: float
    rms: float
    scale_positive: float
    scale_negative: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.pivot) and math.isfinite(self.rms) and self.rms >= 0.0):
            raise ValueError(f"PivotStatistics.pivot and rms are finite and rms >= 0, got {self.pivot} and {self.rms}")
        for field in ("scale_positive", "scale_negative"):
            value = getattr(self, field)
            if not (math.isfinite(value) and value > 0.0):
                raise ValueError(f"PivotStatistics.{field} is a finite number > 0, got {value}")

    @classmethod
    def of(cls, entropies: Tensor, quantile: float = 0.8) -> "PivotStatistics":
        """The statistics of a batch's entropies [tokens] in nats, valid tokens only. Raises ValueError without any."""
        if not 0.0 <= quantile <= 1.0:
            raise ValueError(f"the pivot is a quantile in [0, 1], got {quantile}")
        if entropies.numel() == 0:
            raise ValueError("the pivot of a batch without response tokens does not exist")
        x = entropies.detach().flatten().double().clamp_min(ENTROPY_FLOOR).log()
        rank = round(quantile * (x.numel() - 1))  # torch.quantile's "nearest", without its limit of 2**24 tokens
        pivot = x.kthvalue(rank + 1).values
        rms = (x - pivot).square().mean().sqrt().item()
        if rms == 0.0:
            return cls(pivot=pivot.item(), rms=0.0, scale_positive=1.0, scale_negative=1.0)
        low, high = (bound.item() / rms for bound in torch.aminmax(x - pivot))
        return cls(pivot=pivot.item(), rms=rms, scale_positive=high or 1.0, scale_negative=-low or 1.0)


@dataclass(frozen=True, kw_only=True)
class LogPivot:
    """Temperature follows the normalised log-entropy h_hat in [-1, 1], which is 0 at the pivot.

    Rule    h = (ln(max(H, 1e-8)) - pivot) / rms; h_hat = clip(h / scale, -1, 1), scale = scale_positive if h > 0,
            scale_negative otherwise; T = base * (1 + swing * h_hat)
    Source  HAPO section "adaptive temperature sampling", arXiv:2509.16591, grade A-code (vllm/v1/sample/sampler.py):
            base = 1, swing (tau) = 0.05.
    Units   base: divisor of the logits, > 0.  swing: fraction of base, |swing| < 1.  The rest: see PivotStatistics.
    Traps   the released code divides the negative branch by min(h) < 0, so its coldest tokens are heated as much as
            its hottest: `released_sign=True` reproduces that, the default is the sign the paper intends.
            H is of the raw logits. rms = 0 (all entropies were equal) gives T = base.
    """

    name: ClassVar[str] = "log_pivot"
    needs: ClassVar[frozenset[str]] = frozenset({"entropy"})
    pivot: float
    rms: float
    scale_positive: float
    scale_negative: float
    base: float = 1.0
    swing: float = 0.05
    released_sign: bool = False

    def __post_init__(self) -> None:
        PivotStatistics(
            pivot=self.pivot, rms=self.rms, scale_positive=self.scale_positive, scale_negative=self.scale_negative
        )
        if not (math.isfinite(self.base) and self.base > 0.0):
            raise ValueError(f"LogPivot.base is a finite number > 0, got {self.base}")
        if not abs(self.swing) < 1.0:
            raise ValueError(f"LogPivot.swing is a fraction of base between -1 and 1, got {self.swing}")

    def __call__(self, entropies: Tensor) -> Tensor:
        if self.rms == 0.0:
            return torch.full_like(entropies, self.base)
        deviation = (entropies.clamp_min(ENTROPY_FLOOR).log() - self.pivot) / self.rms
        negative = -self.scale_negative if self.released_sign else self.scale_negative
        normalised = torch.where(deviation > 0, deviation / self.scale_positive, deviation / negative)
        return self.base * (1.0 + self.swing * normalised.clamp(-1.0, 1.0))
