"""The drafter's layer beside the policy's weights: a file of its own, under the names vLLM's MiMo model loads.

    policy folder + MtpLayer -> folder: the same files, drafter.safetensors, config.json that names the layer

transformers reads the policy's own files only, so for the learner nothing changes; vLLM reads every *.safetensors.
"""

import json
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from learner.drafter.layer import MtpLayer
from learner.errors import ModelError

DRAFTER_FILE = "drafter.safetensors"
PREFIX = "model.mtp_layers.0."
ENGINE_CLASS = "MiMoForCausalLM"  # a Qwen2 policy with such layers; transformers goes by model_type
INDEX = "model.safetensors.index.json"


def check_draftable(folder: Path) -> None:
    """Raise ModelError for a policy that vLLM's MiMo model cannot be."""
    shape = json.loads((folder / "config.json").read_text())
    if shape.get("model_type") != "qwen2":
        raise ModelError(
            f"a drafter is trained for policies of model_type qwen2, got {shape.get('model_type')} in {folder}: use"
            " speculative=draft_model or speculative=ngram"
        )


def tensors_of(layer: MtpLayer, dtype: torch.dtype) -> dict[str, Tensor]:
    """By the names of the checkpoint, without gradient."""
    return {
        PREFIX + name.removeprefix("block."): one.detach().to(dtype).contiguous()
        for name, one in layer.named_parameters()
    }


def load_layer(layer: MtpLayer, folder: Path) -> None:
    """Fill `layer` with the drafter in `folder`. Raises ModelError where there is none, or one of another shape."""
    found: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            found |= {name: tensors.get_tensor(name) for name in tensors.keys() if name.startswith(PREFIX)}  # noqa: SIM118
    if not found:
        raise ModelError(
            f"{folder} has no drafter (no tensors {PREFIX}*): train one with `temper train-drafter` and give its"
            " folder, or choose model=tiny_mtp"
        )
    own = set(dict(layer.named_parameters()))
    stored = {name.removeprefix(PREFIX): one for name, one in found.items()}
    try:
        layer.load_state_dict({name if name in own else f"block.{name}": one for name, one in stored.items()})
    except RuntimeError as error:
        raise ModelError(
            f"the drafter in {folder} does not fit its policy: {' '.join(str(error).split())}; train another with"
            " `temper train-drafter`"
        ) from error


def save_with_drafter(source: Path, tensors: dict[str, Tensor], folder: Path) -> None:
    """Write the policy of `source` and its drafter into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if file.is_file():
            shutil.copyfile(file, folder / file.name)
    add_drafter(tensors, folder)


def add_drafter(tensors: dict[str, Tensor], folder: Path) -> None:
    """Put a drafter into the folder of its policy, in the place of one that is there."""
    save_file(tensors, folder / DRAFTER_FILE, {"format": "pt"})
    _name_it(list(tensors), folder)


def carry_drafter(source: Path, folder: Path) -> None:
    """Give a checkpoint the drafter of the folder its policy was loaded from, if that has one."""
    if (source / DRAFTER_FILE).exists():
        shutil.copyfile(source / DRAFTER_FILE, folder / DRAFTER_FILE)
        with safe_open(folder / DRAFTER_FILE, "pt") as tensors:
            names = list(tensors.keys())
        _name_it(names, folder)


def _name_it(names: list[str], folder: Path) -> None:
    """In the config, and in the index: where there is one, vLLM reads the files it names and no others."""
    if (folder / INDEX).exists():
        index = json.loads((folder / INDEX).read_text())
        index["weight_map"] |= dict.fromkeys(names, DRAFTER_FILE)
        (folder / INDEX).write_text(json.dumps(index))
    shape = json.loads((folder / "config.json").read_text())
    shape |= {"architectures": [ENGINE_CLASS], "num_nextn_predict_layers": 1}
    (folder / "config.json").write_text(json.dumps(shape, indent=2))
