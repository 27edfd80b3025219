"""Publications: what is written is what safetensors reads, whole or not there at all, and adapters travel alone."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch
import xxhash
from peft import LoraConfig, get_peft_model
from safetensors.torch import load, load_file
from transformers import Qwen2Config, Qwen2ForCausalLM

from learner.errors import ModelError
from learner.publish import ADAPTER, adapter_by_name, fill, layout, publication

PROBE = ((1, 2, 3), 0.5)


@pytest.fixture
def model() -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=24,
            hidden_size=8,
            intermediate_size=12,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            tie_word_embeddings=True,
        )
    ).eval()


def test_the_bytes_are_a_safetensors_file():
    """Own writer, the library's reader: every dtype and shape comes back, with the metadata."""
    tensors = {
        "wide": torch.arange(3, dtype=torch.float64),
        "strided": torch.arange(6.0).view(2, 3).T,
        "half": torch.tensor([[1.5], [2.0], [-3.0]], dtype=torch.bfloat16),
        "empty": torch.zeros(0, 2),
        "number": torch.tensor(3, dtype=torch.int8),
    }
    header, size = layout(tensors, {"key": "value"})
    content = np.empty(size, np.uint8)
    fill(content, header, tensors)
    found = load(content.tobytes())
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_tensors_of_several_widths_are_aligned(model):
    """An odd number of bfloat16 before float32 would put the latter where no machine reads it in place."""
    heads = {"temperature_head.a": torch.ones(3, dtype=torch.bfloat16), "temperature_head.b": torch.ones(5)}
    found = load(publication(SimpleNamespace(model=model), 1, PROBE, heads)[1].tobytes())
    assert found.keys() == model.state_dict().keys() | heads.keys()
    assert torch.equal(found["temperature_head.b"], torch.ones(5))
    assert torch.equal(found["lm_head.weight"], found["model.embed_tokens.weight"])


def test_a_file_appears_whole_and_the_oldest_goes(model, tmp_path):
    """The path in the record leads to bytes of its checksum; two versions stay, and no unfinished file does."""
    folder = tmp_path / "weights"
    for version in range(1, 5):
        with torch.no_grad():
            model.model.norm.weight.fill_(version)
        record, path = publication(SimpleNamespace(model=model), version, PROBE, {}, folder)
        with open(path, "rb") as file:
            assert record.checksum == xxhash.xxh3_128_hexdigest(file.read())
        assert torch.equal(load_file(path)["model.norm.weight"], torch.full((8,), float(version)))
    assert sorted(file.name for file in folder.iterdir()) == ["weights-v3.safetensors", "weights-v4.safetensors"]


def test_an_adapter_travels_alone_with_its_scaling(model):
    """base + B @ A is peft's own merged weight."""
    shape = LoraConfig(r=2, lora_alpha=6, use_rslora=True, target_modules=["q_proj", "down_proj"])
    adapted = get_peft_model(model, shape)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    payload = publication(SimpleNamespace(model=adapted), 1, PROBE, {})[1].tobytes()
    found = load(payload)
    assert len(found) == 4
    assert ADAPTER.items() <= dict(metadata_of(payload)).items()
    base = {name: one.clone() for name, one in adapted.get_base_model().state_dict().items()}
    merged = adapted.merge_and_unload().state_dict()
    for layer in ("model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj"):
        whole = base[f"{layer}.base_layer.weight"] + found[f"{layer}.lora_B.weight"] @ found[f"{layer}.lora_A.weight"]
        assert torch.allclose(whole, merged[f"{layer}.weight"], atol=1e-6)


def metadata_of(payload: bytes) -> dict[str, str]:
    length = int.from_bytes(payload[:8], "little")
    return json.loads(payload[8 : 8 + length])["__metadata__"]


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize("changes", [{"use_dora": True}, {"lora_bias": True}, {"target_modules": ["embed_tokens"]}])
def test_other_adapters_are_refused(model, changes):
    """What is not base + B @ A on a linear layer cannot travel as that."""
    adapted = get_peft_model(model, LoraConfig(**({"r": 2, "target_modules": ["q_proj"]} | changes)))
    with pytest.raises(ModelError, match="is not plain LoRA on a linear layer"):
        adapter_by_name(adapted)


def test_without_an_adapter_there_is_none(model):
    """A plain model publishes whole weights."""
    assert adapter_by_name(model) == {}
    payload = publication(SimpleNamespace(model=model), 1, PROBE, {})[1].tobytes()
    assert safetensors.torch.load(payload).keys() == model.state_dict().keys()
