"""Top-W: which tokens to keep is decided by probability and by the geometry of their embeddings.

    tempered logits -> p -> top_m candidates -> [ distance to the kept set -> score phi -> best prefix ]* -> kept set

Batched over rows; the released code takes one row at a time.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

_VARIANCE_FLOOR = 1e-6
_ROWS_AT_ONCE = 16  # a row's candidate similarities are top_m**2 floats: 6 MB at 1200


@dataclass(frozen=True)
class Geometry:
    """The vocabulary as unit vectors: input embeddings, standardised per dimension, then normalised.

    Traps   it follows the weights: build it anew after an update that moves the embeddings.
    """

    directions: Tensor  # float32 [vocab, d]

    @classmethod
    def of(cls, embeddings: Tensor) -> "Geometry":
        """Input embedding rows [vocab, d] -> Geometry."""
        rows = embeddings.detach().float()
        variance, mean = torch.var_mean(rows, 0, correction=0)
        return cls(functional.normalize((rows - mean) / variance.clamp_min(_VARIANCE_FLOOR).sqrt(), dim=-1))


@dataclass(frozen=True, kw_only=True)
class TopW:
    """Keep the set that balances entropy, mass and closeness of embeddings.

    Rule    C = the top_m most likely, p not renormalised on C; S = shortest prefix of C with warm_mass of C's mass;
            then up to `iterations` times, until S stays: d_i = 1 - max_{j in S} cos(e_i, e_j);
            phi_i = -geometry d_i + entropy ln p_i; with C sorted by phi, k maximises
            J_k = (sum_{i<=k} p_i phi_i) / Gamma_k + (mass - entropy) ln Gamma_k, Gamma_k = sum_{i<=k} p_i; S = first k.
    Source  arXiv:2602.10346, grade A-code (arashgholami/top-w-decoding, logit_processor_w1.py) with its defaults
            lambda 2.2 (here `entropy`), beta 2.8 (`mass`), g 0.6 (`geometry`), warm_p 0.999, top_m 1200, alt_iters 9.
    Units   all dimensionless; p is at the sampling temperature (the release's T_sel = T).
    Traps   mass <= entropy keeps exactly one token. With warm_mass near 1 the first iteration sees d = 0: geometry
            enters with the second. 1 - cos is not a metric. A member of S has d = 0 exactly.
    """

    name: ClassVar[str] = "top_w"
    active: ClassVar[bool] = True
    entropy: float = 2.2
    mass: float = 2.8
    geometry: float = 0.6
    warm_mass: float = 0.999
    top_m: int = 1200
    iterations: int = 9

    def __post_init__(self) -> None:
        for field in ("entropy", "mass", "geometry"):
            value = getattr(self, field)
            if not (math.isfinite(value) and value >= 0.0):
                raise ValueError(f"TopW.{field} is a finite number >= 0, got {value}")
        if not 0.0 < self.warm_mass <= 1.0:
            raise ValueError(f"TopW.warm_mass is a mass in (0, 1], got {self.warm_mass}")
        if self.top_m < 1 or self.iterations < 1:
            raise ValueError(f"TopW.top_m and iterations are at least 1, got {self.top_m} and {self.iterations}")

    def cut(self, logits: Tensor, geometry: Geometry | None) -> Tensor:
        """Tempered logits [rows, vocab] -> the same, -inf outside the kept set. Raises ValueError without geometry."""
        if geometry is None:
            raise ValueError("TopW wants the model's geometry: build it with Geometry.of(input embeddings)")
        if len(geometry.directions) != logits.shape[-1]:
            raise ValueError(
                f"TopW got {logits.shape[-1]} logits a row and the geometry of {len(geometry.directions)} tokens"
            )
        return torch.cat([self._cut(part, geometry) for part in logits.split(_ROWS_AT_ONCE)])

    def _cut(self, logits: Tensor, geometry: Geometry) -> Tensor:
        p, ids = logits.softmax(-1).topk(min(self.top_m, logits.shape[-1]), -1)  # [rows, M], falling
        p = p.double()
        directions = geometry.directions[ids]  # [rows, M, d]
        similarity = directions @ directions.mT
        before = p.cumsum(-1) - p
        kept = before < self.warm_mass * p.sum(-1, keepdim=True)
        kept[:, 0] = True
        for _ in range(self.iterations):
            previous, kept = kept, self._best_prefix(p, self._distance(similarity, kept))
            if torch.equal(previous, kept):
                break
        inside = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, ids, kept)
        return logits.masked_fill(~inside, -torch.inf)

    @staticmethod
    def _distance(similarity: Tensor, kept: Tensor) -> Tensor:
        """similarity [rows, M, M], kept [rows, M] -> distance [rows, M] of each candidate to the nearest kept one."""
        nearest = similarity.masked_fill(~kept.unsqueeze(1), -torch.inf).amax(-1)
        return (1.0 - nearest).masked_fill(kept, 0.0).double()

    def _best_prefix(self, p: Tensor, distance: Tensor) -> Tensor:
        """p, distance [rows, M] -> the candidates of the best prefix in the order of phi, bool [rows, M]."""
        log_p = p.clamp_min(torch.finfo(torch.float32).tiny).log()
        phi, order = (self.entropy * log_p - self.geometry * distance).sort(dim=-1, descending=True, stable=True)
        ordered = p.gather(1, order)
        gamma = ordered.cumsum(-1).clamp_min(torch.finfo(torch.float64).tiny)
        objective = (ordered * phi).cumsum(-1) / gamma + (self.mass - self.entropy) * gamma.log()
        last = objective.argmax(-1, keepdim=True)
        prefix = torch.arange(p.shape[-1], device=p.device) <= last
        return torch.zeros_like(prefix).scatter_(1, order, prefix)
