"""Activation checkpointing: of a transformer layer only the input waits for the backward pass, which computes the rest.

Memory of one layer in the place of all, for one more forward pass.
"""

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.checkpoint import checkpoint

from learner.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def recompute_layers(model: "PreTrainedModel") -> None:
    """From now on a layer of `model` keeps its input alone, where a gradient is taken.

    transformers would do so only in training mode, which also turns dropout on. Raises ModelError for a model without
    layers that transformers marks as such.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [one for one in model.modules() if isinstance(one, GradientCheckpointingLayer)]
    if not layers:
        raise ModelError(
            f"transformers knows no layers of {type(model).__name__} that could be computed again: set"
            " learner.activation_checkpointing=false"
        )
    for layer in layers:
        layer.forward = partial(_recomputed, layer.forward)


def _recomputed(forward: Any, *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)
