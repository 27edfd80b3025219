"""New weights for engines on the learner's own GPU: handles of the memory they lie in (CUDA IPC). Not run.

    tensors -> copies, which training leaves alone -> handles and fingerprint --> the engines

The other side is rollout/vllm_adapter/weights/gpu_memory.py. The copies of two versions stay: engines have confirmed
the older one when the next but one is lent.
"""

import pickle
from collections import deque
from collections.abc import Mapping

import torch
import xxhash
from torch import Tensor
from torch.multiprocessing.reductions import reduce_tensor

from learner.errors import ModelError

VERSIONS = 2


class Lender:
    """Keeps what is lent alive."""

    def __init__(self) -> None:
        self._lent: deque[dict[str, Tensor]] = deque(maxlen=VERSIONS)

    def lend(self, tensors: Mapping[str, Tensor]) -> tuple[bytes, str]:
        """Handles of copies of `tensors`, and their fingerprint. Raises ModelError for tensors that are on no GPU."""
        for name, tensor in tensors.items():
            if not tensor.is_cuda:
                raise ModelError(
                    f"rollout.transport=cuda_ipc lends memory of a GPU, but {name} is on {tensor.device}: set"
                    " learner.num_gpus, or rollout.transport=shared_memory"
                )
        copies = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
        torch.cuda.synchronize()
        self._lent.append(copies)
        lent = {
            "gpu": str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid),
            "tensors": [(name, reduce_tensor(copy)[1]) for name, copy in copies.items()],
        }
        return pickle.dumps(lent), fingerprint(copies)


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """xxh3_128 over name, type, shape and two sums of each tensor's bytes, the second weighted by position."""
    total = xxhash.xxh3_128()
    for name, tensor in tensors.items():
        content = tensor.detach().contiguous().flatten().view(torch.uint8).to(torch.int64)
        places = torch.arange(1, len(content) + 1, device=content.device)
        sums = int(content.sum()), int((content * places).sum())
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} {sums}\n".encode())
    return total.hexdigest()
