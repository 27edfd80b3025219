"""From a Hugging Face folder to a causal language model that can be trained, and back to such a folder.

transformers is imported where it is used: it takes seconds, and a process has to be prepared before it
(`orchestration.process.guard_media_packages`).
"""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from learner.adapters.merge import merged_weights
from learner.drafter.files import carry_drafter
from learner.errors import ModelError
from learner.writing import Writing

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WEIGHT_SUFFIXES = {".safetensors", ".bin", ".gguf", ".pt", ".pth", ".msgpack", ".h5", ".onnx"}


def load_model(path: str | Path, dtype: torch.dtype, device: torch.device) -> "PreTrainedModel":
    """The model in `path`, in evaluation mode: dropout would make the policy differ from the one that sampled.

    Raises ModelError for a folder without config or weights, or with an architecture transformers cannot load.
    """
    folder = Path(path)
    if not (folder / "config.json").is_file():
        raise ModelError(f"model.path should be a Hugging Face folder, but {folder} has no config.json")
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        raise ModelError(
            f"{folder} has a config.json but no weights (*.safetensors or *.bin): download or convert them"
        )
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=dtype, attn_implementation="sdpa")
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"transformers cannot load a causal language model from {folder}: {error}") from error
    return model.to(device).eval()


def vocabulary_of(path: str | Path) -> int:
    """Number of tokens of the model in `path`, from its config alone. Raises ModelError."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(path).get_text_config().vocab_size
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"transformers cannot read the config of a language model in {path}: {error}") from error


def export_model(model: "PreTrainedModel", source: str | Path, folder: Path, writing: Writing) -> None:
    """Write weights, config and the tokenizer files of `source` as a Hugging Face folder that any tool can load.

    Adapters are merged. Raises ModelError for those that are no weight matrix.
    """
    weights = writing.hold(merged_weights(model))
    writing.add(folder, lambda path: _write_model(model, weights, Path(source), path))


def _write_model(model: "PreTrainedModel", weights: dict[str, Tensor], source: Path, folder: Path) -> None:
    model.save_pretrained(folder, state_dict=weights)  # of `model` itself, only what training leaves alone is read
    for file in source.iterdir():
        copied = file.is_file() and file.suffix not in WEIGHT_SUFFIXES and not file.name.endswith(".index.json")
        if copied and not (folder / file.name).exists():
            shutil.copyfile(file, folder / file.name)
    carry_drafter(source, folder)
