"""A policy that drafts for itself, from the configuration to the folder."""

import dataclasses
import json

import pytest
from safetensors import safe_open

from learner.drafter.files import DRAFTER_FILE
from orchestration.config import load_plan
from orchestration.models.drafter import ACCEPTANCE_FILE
from orchestration.models.resolve import silent


def test_the_configuration_names_policy_and_drafter():
    """model=tiny_mtp is the tiny policy of model=tiny, with a drafter of as many drafts as speculative=mtp makes."""
    plan = load_plan(["experiment=quickstart", "model=tiny_mtp", "speculative=mtp"])
    assert plan.model.base == load_plan(["experiment=quickstart"]).model
    assert plan.model.training.drafts == plan.speculative.tokens


@pytest.mark.slow
def test_the_folder_has_a_drafter_and_is_built_once(tmp_path, monkeypatch, ray_cluster):
    """Few samples and steps: own samples by a real engine, a drafter beside the weights, and the same folder again."""
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path))
    plan = load_plan(["experiment=quickstart", "model=tiny_mtp", "model.base.training.steps=60"])
    training = dataclasses.replace(plan.model.training, steps=6, warmup_steps=3, batch=16)
    model = dataclasses.replace(plan.model, training=training, samples=64)
    folder = model.resolve(plan.task, silent)
    with safe_open(folder / DRAFTER_FILE, "numpy") as tensors:
        assert "model.mtp_layers.0.input_proj.weight" in tensors.keys()  # noqa: SIM118  not a mapping
    assert len(json.loads((folder / ACCEPTANCE_FILE).read_text())) == training.drafts
    changed = (folder / DRAFTER_FILE).stat().st_mtime_ns
    assert model.resolve(plan.task, silent) == folder
    assert (folder / DRAFTER_FILE).stat().st_mtime_ns == changed
