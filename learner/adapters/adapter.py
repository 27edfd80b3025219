"""What adapters have in common: chosen, put on a frozen policy, and switched off to ask what the policy was before."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from learner.adapters.targets import NamedLayers
from learner.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from learner.measures import Measures

logger = logging.getLogger(__name__)

# peft's own flag, which RoutedLinear has as well. peft's public switch also takes `requires_grad` away, and optimizer
# hooks of a forward pass that is still waiting for its backward pass do not survive that.
SWITCH = "_disable_adapters"


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """Which layers get trainable additions; the subclass says of which kind. The base is not trained.

    Traps   at the start every addition is 0: version 0 of the engines is the model folder as it is.
            "alone" is small, but the engine merges in float32 and rounds once, as "merged" does here: in bfloat16
            changes below 2**-9 of a weight are lost either way, while the learner computes with them.
    """

    shares_parameters: ClassVar[bool] = False  # between layers

    targets: Any = field(default_factory=NamedLayers)  # the model -> names of linear layers
    publish: Literal["alone", "merged"] = "alone"  # what travels to the engines: the additions, or whole weights

    def __post_init__(self) -> None:
        if self.publish not in ("alone", "merged"):
            raise ValueError(f"learner.adapter.publish is 'alone' or 'merged', got {self.publish!r}")
        if not callable(self.targets):
            raise ValueError(f"learner.adapter.targets is NamedLayers or LowestCondition, got {self.targets!r}")

    @property
    def obstacle(self) -> str:
        """Why no weight matrix computes what the adapted layer does; empty where one does."""
        return ""

    def install(self, model: nn.Module, layers: Sequence[str]) -> None:
        """Put the additions on these layers of `model`, trainable, with an effect of 0."""
        raise NotImplementedError

    def terms(
        self, model: nn.Module, node_rows: Tensor | None, tokens: int, all_tokens: int
    ) -> "tuple[Tensor | float, Measures]":
        """What the adapter adds to the loss of the micro-batch that just went forward: none here."""
        return 0.0, {}

    def after_step(self, model: nn.Module, ranks: int) -> None:
        """What changes after an optimizer step other than by gradient: nothing here."""


def attach(model: "PreTrainedModel", adapter: Adapter, seed: int) -> None:
    """Freeze `model` and put `adapter` on it, equal on all ranks of one `seed`. Raises ModelError for no layer."""
    layers = adapter.targets(model)
    if not layers:
        raise ModelError(f"learner.adapter.targets chose no layer of {type(model).__name__}: name some, or raise keep")
    model.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapter.install(model, layers)
    model.eval()
    trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
    total = sum(one.numel() for one in model.parameters())
    logger.info("%s on %d layers: %d of %d parameters are trained", type(adapter).__name__, len(layers), trained, total)


@contextmanager
def switched_off(model: nn.Module) -> Iterator[None]:
    """Inside, `model` computes what it did before anything was put on it, bit for bit."""
    layers = [layer for layer in model.modules() if hasattr(layer, SWITCH)]
    for layer in layers:
        setattr(layer, SWITCH, True)
    try:
        yield
    finally:
        for layer in layers:
            setattr(layer, SWITCH, False)


def positive(owner: object, *names: str) -> None:
    """Raise ValueError unless these fields are above 0."""
    for name in names:
        if not getattr(owner, name) > 0:
            raise ValueError(f"learner.adapter.{name} is positive, got {getattr(owner, name)}")


def layer_index(name: str) -> int:
    """Depth of a layer by its name: 3 for "model.layers.3.mlp.up_proj". Raises ModelError for a name without one."""
    for part in name.split("."):
        if part.isdigit():
            return int(part)
    raise ModelError(f"{name} has no number, so its depth is unknown: leave it out of learner.adapter.targets")
