"""What an engine refuses before it starts: drafting layers that the model does not have."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rollout.config import SpeculativeConfig
from rollout.errors import RolloutError
from rollout.vllm_adapter.start import speculation
from tests.models import random_mtp_policy, random_policy

MTP = SpeculativeConfig(method="mtp")


def refusal(folder: Path) -> str:
    with pytest.raises(RolloutError) as error:
        speculation(MTP, json.loads((folder / "config.json").read_text()), folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_model_without_drafting_layers_is_refused(tmp_path):
    """Its config.json names none."""
    random_policy(tmp_path)
    assert "speculative=mtp, but the config.json of the model names no multi-token-prediction layers" in refusal(
        tmp_path
    )


def test_a_config_that_promises_drafting_layers_is_not_enough(tmp_path):
    """config.json names one, the safetensors have lost it, as many fine-tuned models have."""
    random_mtp_policy(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    assert any("mtp" in name for name in weights)
    save_file({name: tensor for name, tensor in weights.items() if "mtp" not in name}, file, {"format": "pt"})
    assert f"the safetensors in {tmp_path} hold no multi-token-prediction layer although config.json" in refusal(
        tmp_path
    )


def test_a_drafting_layer_may_also_be_one_behind_the_last(tmp_path):
    """DeepSeek and GLM number it on: with 2 layers in the policy, model.layers.2 is one, model.layers.1 is not."""
    shape = {"num_hidden_layers": 2, "num_nextn_predict_layers": 1, "architectures": []}
    (tmp_path / "config.json").write_text(json.dumps(shape))
    file = tmp_path / "model-00001-of-00002.safetensors"
    save_file({"model.layers.1.eh_proj.weight": torch.zeros(1)}, file)
    assert "hold no multi-token-prediction layer" in refusal(tmp_path)
    save_file({"model.layers.2.eh_proj.weight": torch.zeros(1)}, tmp_path / "model-00002-of-00002.safetensors")
    assert speculation(MTP, shape, tmp_path)["method"] == "mtp"
