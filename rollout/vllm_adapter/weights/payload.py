"""The payload of a weight update: a safetensors file, as bytes in shared memory or on a file system, read in place.

    uint8 [bytes] or path -> checksum over all of it -> named tensors that are views into it: nothing is copied

Everything here happens before the engine is touched, so a payload that is damaged leaves it as it was.
"""

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import torch
import xxhash
from torch import Tensor

from rollout.errors import WeightUpdateError
from rollout.messages import WeightUpdate

SHARED_MEMORY = Path("/dev/shm")
HEADER_LENGTH_BYTES = 8  # a safetensors file: its header's length, the header as JSON, the tensors' bytes
METADATA = "__metadata__"
ADAPTER_KEY = "temper_adapter"  # in the metadata of payloads that hold an adapter alone
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True, slots=True)
class Payload:
    """Named views into a safetensors file; with `is_adapter` they go onto base weights (adapter.py)."""

    tensors: dict[str, Tensor]
    is_adapter: bool


def opened(payload: np.ndarray | str, version: int) -> np.ndarray:
    """The bytes, uint8 [bytes]; of a path a private mapping of the file. Raises WeightUpdateError for no such file."""
    if isinstance(payload, np.ndarray):
        return payload
    file = Path(payload)
    if not file.is_file() or not file.stat().st_size:
        raise WeightUpdateError(
            f"weights v{version} should be in {file}, but there is no such file or it is empty:"
            " rollout.transport_folder must be one folder that the learner and every rollout worker see"
        )
    return np.memmap(file, np.uint8, "c")


def check_checksum(update: WeightUpdate) -> None:
    """Raise WeightUpdateError unless the payload's xxh3_128 is the update's checksum. Workers check handles."""
    if isinstance(update.payload, bytes):
        return
    content = opened(update.payload, update.version)
    found = xxhash.xxh3_128_hexdigest(content)
    if found != update.checksum:
        raise WeightUpdateError(
            f"weights v{update.version} arrived damaged: the checksum of their {content.nbytes} bytes is {found}, the"
            f" learner sent {update.checksum}; the engine keeps the version it has"
        )


@contextmanager
def within_reach(payload: np.ndarray | str | bytes, version: int) -> Iterator[str | bytes]:
    """The same for another process of this host: bytes are written to a file in shared memory for that.

    Raises WeightUpdateError where they do not fit.
    """
    if not isinstance(payload, np.ndarray):
        yield payload
        return
    file = SHARED_MEMORY / f"temper-{os.getpid()}-v{version}.safetensors"
    try:
        try:
            payload.tofile(file)
        except OSError as error:
            raise WeightUpdateError(
                f"weights v{version} could not be written to {file}: {error}; give {SHARED_MEMORY} room for"
                f" {payload.nbytes} bytes (Docker: --shm-size), or set rollout.transport=shared_files"
            ) from error
        yield str(file)
    finally:
        file.unlink(missing_ok=True)


def read(content: np.ndarray | Tensor, version: int) -> Payload:
    """Views of all tensors in a safetensors file, uint8 [bytes], which stay on its device.

    Raises WeightUpdateError where the bytes are none, or too few.
    """
    start = HEADER_LENGTH_BYTES + int.from_bytes(_on_cpu(content[:HEADER_LENGTH_BYTES]), "little")
    try:
        header = json.loads(_on_cpu(content[HEADER_LENGTH_BYTES:start]))
    except ValueError as error:
        raise WeightUpdateError(f"weights v{version} are not a safetensors file: {error}") from error
    metadata = header.pop(METADATA, {})
    if unknown := {entry["dtype"] for entry in header.values()} - DTYPES.keys():
        raise WeightUpdateError(
            f"weights v{version} have tensors of {', '.join(sorted(unknown))}, known are {[*DTYPES]}"
        )
    promised = start + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if promised != content.nbytes:
        raise WeightUpdateError(
            f"weights v{version} are truncated: their header promises {promised} bytes, {content.nbytes} arrived"
        )
    with warnings.catch_warnings():  # Ray's object store is read-only, and torch has no read-only tensors
        warnings.filterwarnings("ignore", "The given buffer is not writable")
        tensors = {name: _view(content, start, entry) for name, entry in header.items()}
    return Payload(tensors, ADAPTER_KEY in metadata)


def _on_cpu(content: np.ndarray | Tensor) -> bytes:
    return content.tobytes() if isinstance(content, np.ndarray) else content.cpu().numpy().tobytes()


def _view(content: np.ndarray | Tensor, start: int, entry: dict) -> Tensor:
    shape, begin, dtype = entry["shape"], start + entry["data_offsets"][0], DTYPES[entry["dtype"]]
    if not prod(shape):
        return torch.empty(shape, dtype=dtype)
    if isinstance(content, Tensor):
        return content[begin : start + entry["data_offsets"][1]].view(dtype).view(shape)
    return torch.frombuffer(content, dtype=dtype, count=prod(shape), offset=begin).view(shape)
