"""Terms that keep routers in order: per-layer statistics of a micro-batch in, one number out, to be minimised.

Each takes the RouterStats of all adapted layers. Where a paper adds over layers, `terms` here take the mean: a
coefficient then means the same for a model of any depth.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from learner.adapters.routed import RouterStats


@dataclass(frozen=True, kw_only=True)
class Balance:
    """Use all experts alike.

    Rule    coefficient * E * sum_e f_e P_e, P the token mean of probs, f ("soft") the token mean of the weights or
            ("hard") the fraction of all selections that fell on e; 1 at balance. Mean over layers, or ("all") over
            the tokens of all layers together.
    Source  DynMoLE, arXiv:2504.00661, grade A-code (soft, all, 1e-3); Switch, arXiv:2101.03961, K (hard, per layer).
    Traps   means over one micro-batch, not over the batch: small micro-batches punish what would even out.
            Soft weights need not sum to 1 (DynMoLE), so 1 is not the least value then.
    """

    coefficient: float = 1e-3
    share: Literal["soft", "hard"] = "soft"
    over: Literal["layer", "all"] = "layer"

    def __post_init__(self) -> None:
        _one_of(self, "share", ("soft", "hard"))
        _one_of(self, "over", ("layer", "all"))

    def __call__(self, stats: Sequence[RouterStats]) -> Tensor:
        if self.over == "layer":
            return self.coefficient * _mean(stats, self._of)
        probs, weights = torch.cat([one.probs for one in stats]), torch.cat([one.weights for one in stats])
        return self.coefficient * self._of(RouterStats(probs=probs, weights=weights))

    def _of(self, one: RouterStats) -> Tensor:
        used = one.weights
        if self.share == "hard":
            chosen = (used > 0).to(used.dtype)
            used = chosen / chosen.sum(-1, keepdim=True).clamp_min(1)
        return used.shape[1] * (used.mean(0) * one.probs.mean(0)).sum()


@dataclass(frozen=True, kw_only=True)
class TsallisEntropy:
    """Make routers decide: the mean of the normalised Tsallis entropy of their probabilities.

    Rule    coefficient * mean S, S as `tsallis` says, in [0, 1] up to eps
    Source  DynMoLE, arXiv:2504.00661, grade A-code (mikecovlee/DynMoLE): q 1.1, eps 1e-5, 1e-2.
    Traps   a negative coefficient keeps routers undecided. Their mean counts padding; ours does not.
    """

    coefficient: float = 1e-2
    q: float = 1.1
    eps: float = 1e-5

    def __call__(self, stats: Sequence[RouterStats]) -> Tensor:
        return self.coefficient * _mean(stats, lambda one: tsallis(one.probs, self.q, self.eps).mean())


@dataclass(frozen=True, kw_only=True)
class Orthogonality:
    """Let the experts a token selects say different things.

    Rule    mean over tokens of the mean over ordered pairs j != k of its selected experts of
            <x_j, x_k>^2 / (|x_k|^2 (|x_j|^2 + eps)), x the experts' outputs; "raw": the sum over pairs of
            <x_j, x_k>^2 / |x_k|^2
    Source  arXiv:2505.22323, grade A-paper for the raw form; the scale-free one is ours. Their released code (A-code)
            reshapes outputs so that rows of different tokens meet, which is not repeated, and sets its coefficient
            from the first batch; ours is fixed.
    Traps   the raw form falls when outputs shrink. Holds the outputs of all experts, [row, expert, out] per layer.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"outputs"})
    coefficient: float = 1e-4
    norm: Literal["cosine", "raw"] = "cosine"
    eps: float = 1e-8

    def __post_init__(self) -> None:
        _one_of(self, "norm", ("cosine", "raw"))

    def __call__(self, stats: Sequence[RouterStats]) -> Tensor:
        return self.coefficient * _mean(stats, self._of)

    def _of(self, one: RouterStats) -> Tensor:
        x = one.outputs.float()
        products = torch.einsum("njo,nko->njk", x, x)
        squares = products.diagonal(dim1=1, dim2=2)
        overlap = products.square() / (squares[:, None, :] + self.eps)  # [row, j, k]: of x_j on x_k
        if self.norm == "cosine":
            overlap = overlap / (squares[:, :, None] + self.eps)
        chosen = one.weights > 0
        pairs = chosen[:, :, None] & chosen[:, None, :] & ~torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
        per_token = (overlap * pairs).sum((1, 2))
        if self.norm == "cosine":
            per_token = per_token / pairs.sum((1, 2)).clamp_min(1)
        return per_token.mean()


@dataclass(frozen=True, kw_only=True)
class RoutingVariance:
    """Let routers tell experts apart: the variance of their probabilities counts as a gain.

    Rule    "expert": -coefficient * mean over tokens of the unbiased variance of probs over the experts;
            "token": -coefficient * sum over experts of the mean over tokens of (probs - their token mean)^2
    Source  arXiv:2505.22323: expert, grade A-code (HongcanGuo/Auxloss-For-Advancing-Expert-Specialization); token,
            A-paper. Their coefficient is set from the first batch to contribute 1e-3; ours is fixed.
    Traps   the two differ: a router that always takes the same expert has a large first and no second variance.
    """

    coefficient: float = 1e-3
    axis: Literal["expert", "token"] = "expert"

    def __post_init__(self) -> None:
        _one_of(self, "axis", ("expert", "token"))

    def __call__(self, stats: Sequence[RouterStats]) -> Tensor:
        return -self.coefficient * _mean(stats, self._of)

    def _of(self, one: RouterStats) -> Tensor:
        if self.axis == "token":
            return (one.probs - one.probs.mean(0)).square().mean(0).sum()
        if one.probs.shape[1] == 1:
            return one.probs.new_zeros(())
        return one.probs.var(dim=1).mean()


def tsallis(probs: Tensor, q: float, eps: float) -> Tensor:
    """(1 - sum p^q) / (q - 1) over its value for equal probabilities, p = probs + eps; q = 1 is Shannon's. [row]"""
    p, experts = probs + eps, probs.shape[-1]
    if experts == 1:
        return torch.zeros_like(p[..., 0])
    if q == 1.0:
        return -(p * p.log()).sum(-1) / math.log(experts)
    return (1 - p.pow(q).sum(-1)) / (1 - experts ** (1 - q))


def _mean(stats: Sequence[RouterStats], of: Callable[[RouterStats], Tensor]) -> Tensor:
    return torch.stack([of(one) for one in stats]).mean()


def _one_of(owner: object, name: str, known: tuple[str, ...]) -> None:
    if getattr(owner, name) not in known:
        raise ValueError(f"{type(owner).__name__}.{name} is one of {', '.join(known)}, got {getattr(owner, name)!r}")
