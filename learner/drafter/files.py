"""The drafter's layer beside the policy's weights: a file of its own, under the names vLLM's MiMo model loads.

    policy folder + MtpLayer -> folder: the same files, drafter.safetensors, config.json that names the layer

transformers reads the policy's own files only, so for the learner nothing changes; vLLM reads every *.safetensors.
"""

import json
import shutil
from pathlib import Path

from safetensors.torch import save_file

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


def save_with_drafter(source: Path, layer: MtpLayer, folder: Path) -> None:
    """Write the policy of `source` and its drafter into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if file.is_file():
            shutil.copyfile(file, folder / file.name)
    tensors = {
        PREFIX + name.removeprefix("block."): one.detach().contiguous() for name, one in layer.named_parameters()
    }
    save_file(tensors, folder / DRAFTER_FILE, {"format": "pt"})
    if (folder / INDEX).exists():  # vLLM then reads the files it names, and no others
        index = json.loads((folder / INDEX).read_text())
        index["weight_map"] |= dict.fromkeys(tensors, DRAFTER_FILE)
        (folder / INDEX).write_text(json.dumps(index))
    _name_in_config(folder)


def carry_drafter(source: Path, folder: Path) -> None:
    """Give a checkpoint the drafter of the folder its policy was loaded from, if that has one."""
    if (source / DRAFTER_FILE).exists():
        shutil.copyfile(source / DRAFTER_FILE, folder / DRAFTER_FILE)
        _name_in_config(folder)


def _name_in_config(folder: Path) -> None:
    shape = json.loads((folder / "config.json").read_text())
    shape |= {"architectures": [ENGINE_CLASS], "num_nextn_predict_layers": 1}
    (folder / "config.json").write_text(json.dumps(shape, indent=2))
