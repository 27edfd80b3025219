"""From an adapted model to weights that need no adapter: A and B of every layer, and base + B @ A under its old name.

Engines do the same with the same formula (rollout/vllm_adapter/weights/adapter.py), so both ways to publish agree.
"""

import torch
from torch import Tensor, nn

from learner.adapters.routed import RoutedLinear
from learner.errors import ModelError

PEFT_PREFIX = "base_model.model."  # before the names of a model that peft has wrapped
BASE = ".base_layer."  # where an adapted layer keeps what it had been


def factors(model: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Of every adapted layer, by its name: A [rank, in] and B [out, rank], so that its weights are base + B @ A.

    Raises ModelError for an adapter that is not a product of two matrices on a linear layer.
    """
    found = {}
    for path, layer in model.named_modules():
        if isinstance(layer, RoutedLinear):
            found[path] = layer.factors(path)
        elif getattr(layer, "lora_A", None) or getattr(layer, "lora_embedding_A", None):
            found[path.removeprefix(PEFT_PREFIX)] = _lora_factors(path, layer)
    return found


def _lora_factors(path: str, layer: nn.Module) -> tuple[Tensor, Tensor]:
    [active] = layer.active_adapters
    if active not in layer.lora_A or getattr(layer, "use_dora", {}).get(active) or layer.lora_bias.get(active):
        raise ModelError(
            f"the adapter of {path} is not plain LoRA on a linear layer (embeddings, DoRA and LoRA biases are not):"
            " there is no B @ A to publish"
        )
    return layer.lora_A[active].weight.detach(), layer.lora_B[active].weight.detach() * layer.scaling[active]


@torch.no_grad()
def merged_weights(model: nn.Module) -> dict[str, Tensor]:
    """The state of `model` as if it had been trained whole: names and shapes of the model without adapters.

    Products in float32, rounded once. Without an adapter these are the model's own tensors, not copies.
    """
    added = factors(model)
    weights = {}
    for name, tensor in model.state_dict().items():
        if BASE in name:
            layer, _, kind = name.removeprefix(PEFT_PREFIX).rpartition(BASE)
            if kind == "weight":
                a, b = added[layer]
                tensor = torch.addmm(tensor.float(), b.float(), a.float()).to(tensor.dtype)
            weights[f"{layer}.{kind}"] = tensor
        elif not any(name.removeprefix(PEFT_PREFIX).startswith(f"{layer}.") for layer in added):
            weights[name.removeprefix(PEFT_PREFIX)] = tensor
    return weights
