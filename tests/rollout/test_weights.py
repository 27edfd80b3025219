"""The payload of a weight update: read in place, and refused in one sentence where it is not what was sent."""

import numpy as np
import pytest
import safetensors.torch
import torch
import xxhash

from rollout.config import RolloutConfig
from rollout.errors import WeightUpdateError
from rollout.messages import Probe, WeightUpdate
from rollout.vllm_adapter.weights.payload import check_checksum, opened, read, within_reach

TENSORS = {
    "matrix": torch.arange(6, dtype=torch.float32).view(2, 3),
    "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "number": torch.tensor(7),
    "empty": torch.zeros(0, 4),
    "flags": torch.tensor([True, False, True]),
}


def payload(tensors=TENSORS, metadata=None) -> np.ndarray:
    return np.frombuffer(safetensors.torch.save(tensors, metadata), np.uint8)


def update(content: np.ndarray | str, checksum: str) -> WeightUpdate:
    return WeightUpdate(version=4, checksum=checksum, payload=content, probe=Probe(prompt_ids=(1,), entropy=0.0))


def test_tensors_come_back_as_they_were_sent():
    """Every dtype and shape, also scalars and empty tensors, from bytes and from a file."""
    content = payload()
    with within_reach(content, 4) as file:
        for source in (content, file):
            found = read(opened(source, 4), 4).tensors
            assert found.keys() == TENSORS.keys()
            for name, tensor in TENSORS.items():
                assert found[name].dtype == tensor.dtype
                assert torch.equal(found[name], tensor)
    with pytest.raises(WeightUpdateError, match="should be in .*, but there is no such file or it is empty"):
        opened(file, 4)


def test_nothing_is_copied():
    """The tensors are views of the payload: what changes there, changes in them."""
    content = payload().copy()
    matrix = read(content, 4).tensors["matrix"]
    content[content.tobytes().index(np.float32(5.0).tobytes())] ^= 1
    assert matrix[1, 2] != 5.0


def test_bytes_that_are_not_the_ones_sent_are_refused(tmp_path):
    """The checksum covers every byte, wherever they lie."""
    content = payload().copy()
    checksum = xxhash.xxh3_128_hexdigest(content)
    check_checksum(update(content, checksum))
    content[-1] ^= 1
    content.tofile(tmp_path / "v4")
    for damaged in (content, str(tmp_path / "v4")):
        with pytest.raises(WeightUpdateError, match="v4 arrived damaged: .* the engine keeps the version it has"):
            check_checksum(update(damaged, checksum))


@pytest.mark.parametrize(("cut", "sentence"), [(-1, "v4 are truncated: .* promises"), (20, "not a safetensors file")])
def test_a_file_cut_short_is_refused(cut, sentence):
    """Even if somebody computed the checksum of what is left."""
    with pytest.raises(WeightUpdateError, match=sentence):
        read(payload()[:cut], 4)


def test_another_types_tensors_are_refused():
    """A type that nobody writes is named, before a byte of it is read."""
    content = payload({"only": torch.zeros(2)}).tobytes().replace(b'"F32"', b'"F2X"')
    with pytest.raises(WeightUpdateError, match="v4 have tensors of F2X, known are"):
        read(np.frombuffer(content, np.uint8), 4)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"transport": "cuda_ipc"}, "hands over memory of a GPU, but rollout.num_gpus=0: give the engines"),
        ({"transport_folder": "weights"}, "belongs to rollout.transport=shared_files alone"),
    ],
)
def test_transports_that_cannot_work_are_refused_before_anything_starts(changes, sentence):
    """One sentence that says which knob to turn."""
    with pytest.raises(ValueError, match=sentence):
        RolloutConfig(**changes)
