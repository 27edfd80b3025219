"""New weights into a running engine, through vLLM's native weight-transfer interface: backend "temper".

The update names either a file of safetensors or, when the engine core lives in this process, the bytes themselves.
On CPU vLLM packs linear weights (oneDNN) and frees the originals, so copying into parameters fails; the layerwise
reload below is vLLM's own way around it and serves GPUs too.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

BACKEND = "temper"
DRAFTING_LAYERS = "mtp"  # in the names of multi-token-prediction layers, whatever the architecture


@dataclass
class InitInfo(WeightTransferInitInfo):
    pass


@dataclass
class UpdateInfo(WeightTransferUpdateInfo):
    """Exactly one of the two: `path` of a safetensors file, or `tensors` by checkpoint name (same process only)."""

    path: str | None = None
    tensors: dict[str, Any] | None = None


class TemperWeightTransfer(WeightTransferEngine[InitInfo, UpdateInfo]):
    init_info_cls = InitInfo
    update_info_cls = UpdateInfo

    def init_transfer_engine(self, init_info: InitInfo) -> None:
        pass

    def start_weight_update(self) -> None:
        initialize_layerwise_reload(self.model)

    def receive_weights(self, info: UpdateInfo) -> None:
        tensors = info.tensors if info.tensors is not None else safetensors.torch.load_file(info.path)
        with torch.no_grad():
            self.model.load_weights(iter(tensors.items()))

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        pass


def update_sessions(payload: memoryview | bytes) -> tuple[str, ...]:
    """Worker methods that each begin one pass over the payload: for the policy, then for its drafting layers, if any.

    Without new drafting layers the second pass has nothing to do: they use the policy's own embedding and head.
    """
    policy, drafter = "start_weight_update", "start_draft_weight_update"
    return (policy, drafter) if any(DRAFTING_LAYERS in name for name in names_of(payload)) else (policy,)


def names_of(payload: memoryview | bytes) -> list[str]:
    """Names of the tensors in a safetensors payload: 8 bytes of length, then a JSON header."""
    length = int.from_bytes(bytes(payload[:8]), "little")
    return [name for name in json.loads(bytes(payload[8 : 8 + length])) if name != "__metadata__"]


def tensors_of(payload: memoryview | bytes) -> dict[str, torch.Tensor]:
    """Read a safetensors payload into named tensors."""
    return safetensors.torch.load(bytes(payload))


def spooled(payload: memoryview | bytes, folder: Path, version: int) -> Path:
    """Write a payload where the engine's own process can read it; the caller removes it."""
    path = folder / f"temper-weights-v{version}.safetensors"
    path.write_bytes(payload)
    return path


def _register() -> None:
    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(BACKEND, TemperWeightTransfer)


_register()
