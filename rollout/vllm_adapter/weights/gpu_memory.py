"""Weights in the memory of a GPU that learner and engine share: handles travel, the bytes stay (CUDA IPC). Not run.

As vLLM's own "ipc" backend reads them, but into the same path as every other transport, so that rehearsal, drafting
layers and probe are the same. The learner's side is learner/gpu_memory.py; it leaves the tensors alone until two
versions later.
"""

import pickle

import torch
import xxhash
from torch import Tensor
from torch.multiprocessing.reductions import rebuild_cuda_tensor

from rollout.errors import WeightUpdateError

DEVICE_ARGUMENT = 6  # of rebuild_cuda_tensor: the index that the GPU has in the process that asks


def borrowed(handles: bytes, checksum: str, version: int, device: torch.device) -> dict[str, Tensor]:
    """The tensors behind `handles`. Raises WeightUpdateError for another GPU, or for bytes other than were lent."""
    lent = pickle.loads(handles)
    gpu = str(torch.cuda.get_device_properties(device).uuid)
    if lent["gpu"] != gpu:
        raise WeightUpdateError(
            f"weights v{version} lie on GPU {lent['gpu']} and the engine runs on {gpu}: rollout.transport=cuda_ipc"
            " needs both on one GPU; otherwise use shared_memory"
        )
    tensors = {}
    for name, arguments in lent["tensors"]:
        here = list(arguments)
        here[DEVICE_ARGUMENT] = device.index
        tensors[name] = rebuild_cuda_tensor(*here)
    found = fingerprint(tensors)
    if found != checksum:
        raise WeightUpdateError(f"weights v{version} changed on the GPU: checksum {found}, the learner sent {checksum}")
    return tensors


def fingerprint(tensors: dict[str, Tensor]) -> str:
    """xxh3_128 over name, type, shape and two sums of each tensor's bytes, the second weighted by position.

    The learner computes the same (learner/gpu_memory.py); tests/learner/test_gpu_memory.py compares the two.
    """
    total = xxhash.xxh3_128()
    for name, tensor in tensors.items():
        content = tensor.detach().contiguous().flatten().view(torch.uint8).to(torch.int64)
        places = torch.arange(1, len(content) + 1, device=content.device)
        sums = int(content.sum()), int((content * places).sum())
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} {sums}\n".encode())
    return total.hexdigest()
