"""Which layers get an adapter: by name, or those whose weights are the least specialised (KappaTune)."""

import logging
import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from learner.errors import ModelError

logger = logging.getLogger(__name__)

SMALL_QUANTILE = 0.05


@dataclass(frozen=True, kw_only=True)
class NamedLayers:
    """Linear layers by the last part of their name, such as q_proj or up_proj; none named: all of them.

    The head is never among them: it is evaluated in blocks, apart from the layers (learner/head.py).
    """

    names: tuple[str, ...] = ()

    def __call__(self, model: nn.Module) -> tuple[str, ...]:
        """Names in the order of the model. Raises ModelError for one that no linear layer has."""
        found = linear_layers(model)
        known = {name.rpartition(".")[2] for name in found}
        if unknown := [name for name in self.names if name not in known]:
            raise ModelError(
                f"learner.adapter.targets.names has {unknown[0]}, but the linear layers of {type(model).__name__} are"
                f" called {', '.join(sorted(known))}"
            )
        return tuple(name for name in found if not self.names or name.rpartition(".")[2] in self.names)


@dataclass(frozen=True, kw_only=True)
class LowestCondition:
    """The `keep` layers with the smallest condition number of their weights: the rounder a spectrum, the less special.

    Rule    kappa = sigma_max / sigma_min of each weight matrix in float32, infinite where sigma_min is 0; ascending,
            the first `keep`. A layer with more than `max_dim` rows or columns is left out.
    Source  KappaTune, arXiv:2506.16289, grade A-code (oswaldoludwig/kappaTune); keep 50 and max_dim 16384 of its LoRA
            helper. The helper's cut of an unordered set, which keeps an arbitrary half, is not repeated.
    Units   keep: layers.  smallest: "min", or "quantile" for the 5 % quantile of the singular values (ours).
    Traps   kappa hangs on the smallest singular value alone, which bfloat16 weights round, and favours thin matrices
            over square ones. One SVD per layer at every start: seconds up to some hundred million weights.
    """

    among: NamedLayers = field(default_factory=NamedLayers)
    keep: int = 50
    max_dim: int = 16384
    smallest: Literal["min", "quantile"] = "min"

    def __post_init__(self) -> None:
        if self.keep < 1 or self.max_dim < 1:
            raise ValueError(
                f"learner.adapter.targets.keep and max_dim are at least 1, got {self.keep} and {self.max_dim}"
            )
        if self.smallest not in ("min", "quantile"):
            raise ValueError(f"learner.adapter.targets.smallest is 'min' or 'quantile', got {self.smallest!r}")

    def __call__(self, model: nn.Module) -> tuple[str, ...]:
        """Names in rising order of kappa, those of one kappa in the order of the model."""
        weights = {name: model.get_submodule(name).weight for name in self.among(model)}
        kappas = {
            name: condition_number(weight, self.smallest)
            for name, weight in weights.items()
            if max(weight.shape) <= self.max_dim
        }
        chosen = sorted(kappas, key=kappas.__getitem__)[: self.keep]
        logger.info("condition numbers: %s", ", ".join(f"{name} {kappas[name]:.4g}" for name in chosen))
        return tuple(chosen)


@torch.no_grad()
def condition_number(weight: Tensor, smallest: Literal["min", "quantile"] = "min") -> float:
    """sigma_max / sigma_min of a matrix [out, in], or sigma_max / (5 % quantile of all sigma)."""
    sigma = torch.linalg.svdvals(weight.float())
    least = sigma.min() if smallest == "min" else sigma.quantile(SMALL_QUANTILE)
    return float(sigma.max() / least) if least > 0 else math.inf


def linear_layers(model: nn.Module) -> list[str]:
    """All linear layers of a causal language model but its head."""
    head = model.get_output_embeddings()
    return [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and layer is not head]
