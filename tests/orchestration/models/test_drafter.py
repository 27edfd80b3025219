"""A policy that drafts for itself, from the configuration to the folder."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from learner.drafter.files import DRAFTER_FILE
from orchestration.config import build_plan, load_plan
from orchestration.errors import ConfigError
from orchestration.models.drafter import ACCEPTANCE_FILE
from orchestration.models.resolve import silent
from rollout.draw.temperature import Fixed
from rollout.draw.truncation import Truncation


def test_the_configuration_names_policy_and_drafter():
    """model=tiny_mtp is the tiny policy of model=tiny, with a drafter of as many drafts as speculative=mtp makes."""
    plan = load_plan(["experiment=quickstart", "model=tiny_mtp", "speculative=mtp"])
    assert plan.model.base == load_plan(["experiment=quickstart"]).model
    assert plan.model.training.drafts == plan.speculative.tokens == 8
    plan = load_plan(["experiment=quickstart", "model=tiny_mtp", "speculative=mtp", "speculative.tokens=3"])
    assert plan.model.training.drafts == 3


def test_drafts_are_trained_as_the_run_draws():
    """Before it and during it: at its temperature, inside its truncation, as many as the engine makes of them."""
    ours = ["model=tiny_mtp", "speculative=mtp", "drafter=online"]
    plan = load_plan([*ours, "temperature.temperature=0.7", "truncation=top_p", "speculative.tokens=4"])
    for drafter in (plan.model, plan.learner.drafter):
        assert drafter.temperature == Fixed(temperature=0.7)
        assert drafter.truncation == Truncation(top_p=0.95)
    assert plan.learner.drafter.drafts == 4


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ([], "learner.drafter trains the layer that speculative=mtp drafts with, got speculative.method=none"),
        (["speculative=ngram"], "got speculative.method=ngram: choose speculative=mtp, or drafter=frozen"),
    ],
)
def test_an_online_drafter_that_nobody_drafts_with_is_refused(overrides, sentence):
    """Before anything starts, in one sentence."""
    with pytest.raises(ConfigError, match=sentence):
        load_plan(["drafter=online", *overrides])


def test_an_online_drafter_of_other_draws_is_refused():
    """A saved plan whose temperature was changed in one of its two places."""
    tree = load_plan(["model=tiny_mtp", "speculative=mtp", "drafter=online"]).tree
    assert build_plan(tree).tree == tree
    tree["learner"]["drafter"]["temperature"]["temperature"] = 0.5
    with pytest.raises(ConfigError, match=r"learner.drafter draws with Fixed\(temperature=0.5\) .* the run with Fixed"):
        build_plan(tree)


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


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_a_run_trains_the_drafter_it_drafts_with(adapter, tmp_path, ray_cluster):
    """Two real steps, at another temperature: every step reports it, and the checkpoint's drafter is not the first."""
    model = ["model=tiny_mtp", "model.base.training.steps=60", "model.samples=64", "model.training.steps=6"]
    training = ["model.training.warmup_steps=3", "model.training.batch=16", "temperature.temperature=0.8"]
    small = [
        "run.steps=2",
        "run.groups_per_step=4",
        "run.group_size=8",
        "eval.every=0",
        "eval.tasks=4",
        "eval.samples=8",
    ]
    drafting = ["speculative=mtp", "speculative.tokens=3", "drafter=online", f"adapter={adapter}"]
    overrides = ["experiment=quickstart", *model, *training, *small, *drafting]
    command = [sys.executable, "-m", "orchestration.cli", "train", *overrides, f"run.dir={tmp_path / 'run'}"]
    environment = {"TEMPER_CACHE": str(tmp_path / "cache")}
    finished = subprocess.run(command, capture_output=True, text=True, timeout=280, env=os.environ | environment)
    assert finished.returncode == 0, finished.stderr[-2000:]
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "train/reward" in row]
    assert all(0.0 < row["drafter/acceptance_first"] <= 1.0 and row["drafter/loss"] > 0.0 for row in rows)
    [before] = (tmp_path / "cache").glob(f"tiny-drafter-*/{DRAFTER_FILE}")
    after = load_file(tmp_path / "run" / "checkpoints" / "latest" / "policy" / DRAFTER_FILE)
    assert any(not torch.equal(tensor, after[name]) for name, tensor in load_file(before).items())
