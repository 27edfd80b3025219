"""New weights on their way to the engines: one safetensors payload, its checksum, and a probe of what they compute.

    policy --names--> tensors --one copy--> payload in memory, or a file that appears when it is whole --> Publication

Where only an adapter is trained, the payload holds the adapter alone and the engines put it on the base weights they
have (rollout/vllm_adapter/weights/adapter.py).
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import xxhash
from torch import Tensor, nn

from learner.adapters.merge import factors, merged_weights
from learner.broadcast import Broadcaster
from learner.errors import ModelError
from learner.forward import Policy
from learner.gpu_memory import VERSIONS, Lender
from learner.messages import Publication
from rollout.draw.distribution import entropy

PROBE_TOKENS = 8
# Of payloads that hold an adapter alone: "<layer>.lora_A.weight" [rank, in] and "<layer>.lora_B.weight" [out, rank],
# the scaling in the latter, so that the weights are base + B @ A; any other tensor is whole.
ADAPTER = {"temper_adapter": "lora"}
FILE = "weights-v{version}.safetensors"
ALIGNMENT = 8  # bytes; a safetensors header is padded to it


def weights_by_name(policy: Policy) -> dict[str, Tensor]:
    """The weights under their Hugging Face names, adapters merged into them.

    A tied head appears under its own name as well: vLLM on CPU keeps it as a separate packed layer, and an update that
    names only the embedding would leave the old head in place.
    """
    model = policy.model
    tensors = {name: tensor.detach() for name, tensor in merged_weights(model).items()}
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    if head is embedding:
        shared = [name for name, parameter in model.named_parameters(remove_duplicate=False) if parameter is head]
        tensors.update({name: head.detach() for name in shared})
    return tensors


def adapter_by_name(model: nn.Module) -> dict[str, Tensor]:
    """The adapters of the layers of `model`, as `ADAPTER` says; empty where there are none.

    Raises ModelError for adapters that are not a product of two matrices on a linear layer.
    """
    tensors = {}
    for layer, (first, second) in factors(model).items():
        tensors[f"{layer}.lora_A.weight"] = first
        tensors[f"{layer}.lora_B.weight"] = second
    return tensors


def probe_of(policy: Policy) -> tuple[tuple[int, ...], float]:
    """A fixed prompt, and the entropy in nats of what the policy says comes after it."""
    vocabulary = policy.model.config.get_text_config().vocab_size
    probe_ids = tuple((i + 1) * vocabulary // (PROBE_TOKENS + 1) for i in range(PROBE_TOKENS))
    return probe_ids, float(entropy(policy.next_token_logits(probe_ids)))


def publication(
    policy: Policy,
    version: int,
    probe: tuple[tuple[int, ...], float],
    heads: Mapping[str, Tensor],
    to: Path | Lender | Broadcaster | None = None,
    *,
    merged: bool = False,
) -> tuple[Publication, np.ndarray | str | bytes]:
    """The record and its payload: the policy's weights, or its adapter alone, and the tensors of `heads`.

    `merged`: an adapter travels as a part of whole weights.

    A safetensors file as uint8 [bytes]; with a folder, the path of such a file in it; with a lender, GPU handles; with
    a broadcaster, an offer of such a file, which lies where the weights are.
    """
    adapter = {} if merged else adapter_by_name(policy.model)
    # Wider types first, so that every tensor starts at a multiple of its own.
    named = sorted({**(adapter or weights_by_name(policy)), **heads}.items(), key=lambda one: -one[1].element_size())
    tensors = dict(named)
    if isinstance(to, Lender):
        if adapter:
            raise ModelError(
                "rollout.transport=cuda_ipc lends whole weights: set learner.adapter.publish=merged, or"
                " rollout.transport=shared_memory"
            )
        payload, checksum = to.lend(tensors)
    elif isinstance(to, Broadcaster):
        header, size = layout(tensors, ADAPTER if adapter else {})
        content = torch.empty(size, dtype=torch.uint8, device=named[0][1].device)
        fill(content, header, tensors)
        payload, checksum = to.offer(version, content)
    else:
        header, size = layout(tensors, ADAPTER if adapter else {})
        if to is None:
            content = payload = np.empty(size, np.uint8)
            fill(content, header, tensors)
        else:
            content, payload = written(to, version, header, size, tensors)
        checksum = xxhash.xxh3_128_hexdigest(content)
    probe_ids, probe_entropy = probe
    return Publication(version=version, checksum=checksum, probe_ids=probe_ids, probe_entropy=probe_entropy), payload


def written(
    folder: Path, version: int, header: bytes, size: int, tensors: Mapping[str, Tensor]
) -> tuple[np.ndarray, str]:
    """A file in `folder` that appears under its name when it is whole: its content, mapped, and its path."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / FILE.format(version=version)
    unfinished = file.with_suffix(".unfinished")
    content = np.memmap(unfinished, np.uint8, "w+", shape=(size,))
    fill(content, header, tensors)
    content.flush()
    os.replace(unfinished, file)
    forget(folder, keep=VERSIONS)
    return content, str(file)


def layout(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> tuple[bytes, int]:
    """The header of a safetensors file of `tensors`, in their order, and the size of the whole file in bytes."""
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        entries[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    header = len(text).to_bytes(8, "little") + text
    return header, len(header) + end


def fill(content: np.ndarray | Tensor, header: bytes, tensors: Mapping[str, Tensor]) -> None:
    """Write the file into `content`, uint8 [bytes]; each tensor is copied once, from whatever device it is on."""
    content = torch.as_tensor(content)  # the same memory
    content[: len(header)] = torch.frombuffer(bytearray(header), dtype=torch.uint8)
    end = len(header)
    for tensor in tensors.values():
        begin, end = end, end + tensor.nbytes
        if tensor.nbytes:
            content[begin:end].view(tensor.dtype).view(tensor.shape).copy_(tensor)


def forget(folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` payloads.

    A version is written when every engine has confirmed the one before, so with `keep` at least 2 nobody needs those
    removed; an engine that joins late has one more version's time to read the one it was sent.
    """
    files = sorted(folder.glob(FILE.format(version="*")), key=lambda file: file.stat().st_mtime_ns)
    for file in files[:-keep]:
        file.unlink()


DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
