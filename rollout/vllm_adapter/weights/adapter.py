"""An update that holds a LoRA adapter alone, put on the base weights: W = base + B @ A, in float32, rounded once.

    payload: <layer>.lora_A.weight [rank, in], <layer>.lora_B.weight [out, rank] --> all tensors of the model, whole
    model folder: <layer>.weight [out, in] -----------------------------------^

Merged rather than run beside the base, as vLLM can: decoding then costs nothing, drafting layers see the same policy,
keys and values follow the same rules as in any update, and the engine draws with one set of weights. In bfloat16 the
rounding swallows changes below 2**-9 of a weight, which mismatch/kl then shows.
"""

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from rollout.errors import WeightUpdateError

A, B = ".lora_A.weight", ".lora_B.weight"
EMBEDDING, HEAD = "embed_tokens.weight", "lm_head.weight"


def merged(folder: Path, adapter: Mapping[str, Tensor], version: int, *, tied: bool) -> dict[str, Tensor]:
    """Tensors of the model in `folder` with an adapter on them; those it leaves alone are not read but mapped.

    `tied`: the head is the embedding, whatever names the folder has. Raises WeightUpdateError for an adapter of layers
    or shapes that the model does not have.
    """
    tensors: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= safetensors.torch.load_file(file)
    if not tensors:
        raise WeightUpdateError(
            f"weights v{version} are an adapter alone, but there are no base weights (*.safetensors) in {folder}"
        )
    for layer in {name.removesuffix(A).removesuffix(B) for name in adapter if name.endswith((A, B))}:
        base, first, second = tensors.get(f"{layer}.weight"), adapter.get(layer + A), adapter.get(layer + B)
        if base is None or first is None or second is None:
            raise WeightUpdateError(
                f"weights v{version} bring half an adapter, or one of a layer that is not in {folder}: {layer}"
            )
        if [*second.shape, *first.shape] != [base.shape[0], first.shape[0], first.shape[0], base.shape[1]]:
            raise WeightUpdateError(
                f"weights v{version} bring an adapter of {layer} whose B {list(second.shape)} times A"
                f" {list(first.shape)} should be {list(base.shape)}"
            )
        tensors[f"{layer}.weight"] = torch.addmm(base.float(), second.float(), first.float()).to(base.dtype)
    tensors |= {name: one for name, one in adapter.items() if not name.endswith((A, B))}
    if tied and not any(name.endswith(HEAD) for name in tensors):
        [tensors[HEAD]] = [one for name, one in tensors.items() if name.endswith(EMBEDDING)]
    return tensors
