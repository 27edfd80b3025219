"""The YAML files of `conf/task` and `conf/model` build what they name."""

from pathlib import Path

import hydra
import pytest
from omegaconf import OmegaConf

CONF = Path(__file__).parents[3] / "conf"
DRAWS = {"temperature": "fixed", "truncation": "none"}  # sections of a run that a model may refer to
FILES = sorted([*(CONF / "task").glob("*.yaml"), *(CONF / "model").glob("*.yaml")])


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_a_config_builds_what_it_names(file):
    """Every file has a header, names a class, and builds it once its mandatory values are given."""
    text = file.read_text()
    assert text.startswith(f"# {file.stem} - ")
    run = OmegaConf.create({name: OmegaConf.load(CONF / f"{name}/{choice}.yaml") for name, choice in DRAWS.items()})
    run.chosen = OmegaConf.create(text)
    config = run.chosen
    for key in [key for key in config if OmegaConf.is_missing(config, key)]:
        config[key] = "given"
    built = hydra.utils.instantiate(config, _convert_="all")
    assert hasattr(built, "resolve" if file.parent.name == "model" else "train_task")


def test_there_are_files_to_build():
    """Both groups are found."""
    assert {file.parent.name for file in FILES} == {"task", "model"}
