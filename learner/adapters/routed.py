"""Mixtures of low-rank experts on a frozen linear layer: what they share, from the forward pass to the checkpoint.

    x [row, in] --base--> W x ----------------------------------+--> y [row, out]
                --A_e--> u_e --router's weights, per row--> B_e --+
                            \\--> RouterStats --losses.py--> terms of the loss

Parameters are those of the layer itself, so that ZeRO-3 gathers them with it. Routers compute in float32.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from learner.adapters.adapter import SWITCH, Adapter, positive
from learner.errors import ModelError
from learner.measures import Measure, Measures

SMALLEST_PROB = 1e-30  # so that 0 log 0 is 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterStats:
    """What a router did in one forward pass; rows are tokens, each distinct prefix once.

    probs    float32 [row, expert] with gradient, sums to 1
    weights  float32 [row, expert] with gradient, what each expert's output counts; 0 where it is not selected
    outputs  [row, expert, out] with gradient, before the weights; None unless a loss needs "outputs"
    """

    probs: Tensor
    weights: Tensor
    outputs: Tensor | None = None

    def of(self, rows: Tensor) -> "RouterStats":
        """Those rows alone."""
        outputs = None if self.outputs is None else self.outputs[rows]
        return replace(self, probs=self.probs[rows], weights=self.weights[rows], outputs=outputs)


class RoutedLinear(nn.Module):
    """W x + delta(x). `stats` is what the last forward pass that took a gradient left behind."""

    def __init__(self, base: nn.Linear, *, keeps_outputs: bool = False) -> None:
        super().__init__()
        self.base_layer = base
        self.keeps_outputs = keeps_outputs
        self.stats: RouterStats | None = None
        setattr(self, SWITCH, False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.base_layer(x)
        if getattr(self, SWITCH):
            return y
        delta, stats = self.delta(x.flatten(0, -2))
        if torch.is_grad_enabled():
            self.stats = stats
        return y + delta.view(y.shape).to(y.dtype)

    def delta(self, x: Tensor) -> tuple[Tensor, RouterStats]:
        """[row, in] -> [row, out]."""
        raise NotImplementedError

    def factors(self, path: str) -> tuple[Tensor, Tensor]:
        """A [rank, in] and B [out, rank] with the same effect. Raises ModelError where there are none."""
        raise ModelError(
            f"the adapter of {path} mixes its experts anew for every token, so it is no weight matrix: it can be"
            " neither published nor exported"
        )

    def observe(self, stats: RouterStats) -> None:
        """What to remember of a trained micro-batch until the optimizer has stepped."""

    def settle(self, ranks: int) -> None:
        """After the optimizer step of all ranks."""

    def trainable(self, *shape: int) -> nn.Parameter:
        """A trainable tensor of zeros, where and of what type the frozen weights are."""
        return nn.Parameter(self.base_layer.weight.new_zeros(shape))


class ExpertsLinear(RoutedLinear):
    """A_e [rank, in] and B_e [out, rank] of E experts, stored as one tensor each; delta adds them up, weighted."""

    def __init__(
        self, base: nn.Linear, *, experts: int, rank: int, scaling: float, keeps_outputs: bool = False
    ) -> None:
        super().__init__(base, keeps_outputs=keeps_outputs)
        self.experts, self.rank, self.scaling = experts, rank, scaling
        self.experts_A = self.trainable(experts, rank, base.in_features)
        self.experts_B = self.trainable(base.out_features, experts, rank)
        fan_in_uniform_(self.experts_A)

    def states(self, x: Tensor) -> Tensor:
        """[row, in] -> A_e x, [row, expert, rank]."""
        return nn.functional.linear(x, self.experts_A.flatten(0, 1)).unflatten(-1, (self.experts, self.rank))

    def mixed(self, states: Tensor, weights: Tensor) -> Tensor:
        """scaling * sum_e weights_e B_e states_e, [row, out]: one product of rank E * rank."""
        weighted = (states * weights[..., None].to(states.dtype)).flatten(1)
        return self.scaling * nn.functional.linear(weighted, self.experts_B.flatten(1))

    def recorded(self, probs: Tensor, weights: Tensor, states: Tensor) -> RouterStats:
        outputs = None
        if self.keeps_outputs and torch.is_grad_enabled():
            outputs = torch.einsum("ner,oer->neo", states, self.experts_B)
        return RouterStats(probs=probs, weights=weights, outputs=outputs)


def fan_in_uniform_(tensor: Tensor) -> None:
    """nn.Linear's and peft's start, Kaiming's with a = sqrt(5): uniform in +-1 / sqrt(inputs), the last dimension."""
    nn.init.uniform_(tensor, -1 / math.sqrt(tensor.shape[-1]), 1 / math.sqrt(tensor.shape[-1]))


def router_logits(x: Tensor, weight: Tensor) -> Tensor:
    """float32 [row, expert], whatever type the policy has."""
    return nn.functional.linear(x.float(), weight.float())


@dataclass(frozen=True, kw_only=True)
class Routed(Adapter):
    """An adapter of routed layers; the subclass makes one layer.

    `losses`: terms on the routers' statistics (losses.py), each a mean over the trained micro-batch's distinct tokens,
    added to the objective's loss in proportion to the micro-batch's trained tokens.
    """

    method: ClassVar[str]  # in messages
    losses: Mapping[str, Any] = field(default_factory=dict)

    @property
    def obstacle(self) -> str:
        return (
            f"{self.method} mixes its experts anew for every token, so no weight matrix computes what it learns and the"
            " engines would draw from another policy: choose an adapter that merges, such as lora or hilo"
        )

    @property
    def keeps_outputs(self) -> bool:
        return any("outputs" in getattr(loss, "needs", ()) for loss in self.losses.values())

    def layer(self, name: str, base: nn.Linear, depth: int) -> RoutedLinear:
        """The routed layer around `base`; `depth` is the number of transformer layers."""
        raise NotImplementedError

    def install(self, model: nn.Module, layers: Sequence[str]) -> None:
        depth = model.config.get_text_config().num_hidden_layers
        for name in layers:
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, self.layer(name, model.get_submodule(name), depth))

    def terms(
        self, model: nn.Module, node_rows: Tensor | None, tokens: int, all_tokens: int
    ) -> tuple[Tensor | float, Measures]:
        """The share of a micro-batch with `tokens` of `all_tokens` trained ones, and its metrics `adapter/...`."""
        stats = []
        for layer in routed_layers(model):
            found, layer.stats = layer.stats, None
            found = found if node_rows is None else found.of(node_rows)
            if tokens:
                layer.observe(found)
            stats.append(found)
        values = {name: loss(stats) for name, loss in self.losses.items()}
        entropy = torch.stack(
            [-(one.probs * one.probs.clamp_min(SMALLEST_PROB).log()).sum(-1).mean() for one in stats]
        ).mean()
        used = torch.stack([one.weights.sum(-1).mean() for one in stats]).mean()
        shown = values | {"router_entropy": entropy, "weight_sum": used}
        weight = torch.tensor(float(tokens), dtype=torch.float64, device=used.device)
        measures = {
            f"adapter/{name}": Measure(value=value.detach().double() * weight, weight=weight, how="mean")
            for name, value in shown.items()
        }
        return sum(values.values()) * (tokens / all_tokens), measures

    def after_step(self, model: nn.Module, ranks: int) -> None:
        for layer in routed_layers(model):
            layer.settle(ranks)


def routed_layers(model: nn.Module) -> list[RoutedLinear]:
    return [layer for layer in model.modules() if isinstance(layer, RoutedLinear)]


def at_most(owner: object, name: str, limit: int, of: str) -> None:
    """Raise ValueError unless the field is a number from 1 to `limit`."""
    positive(owner, name)
    if getattr(owner, name) > limit:
        raise ValueError(f"learner.adapter.{name} is at most {of} = {limit}, got {getattr(owner, name)}")
