"""`temper export` takes a policy out of a run: a checkpoint's weights bit for bit, merged or as an adapter of peft."""

import asyncio
import dataclasses
from pathlib import Path

import pytest
import safetensors.torch
import torch
from omegaconf import OmegaConf
from peft import PeftModel
from transformers import AutoModelForCausalLM

from learner.config import LearnerConfig
from learner.objective import Objective
from learner.objective.advantage import GroupMean
from learner.objective.aggregate import TokenMean
from learner.objective.surrogate import Clipped
from learner.worker import LearnerWorker
from orchestration.actions import SchedulerState
from orchestration.checkpoint_store import CheckpointStore
from orchestration.cli import main
from orchestration.config import compose, load_plan
from orchestration.locate import find_checkpoint
from orchestration.run_folder import RunFolder
from tests.learner.conftest import _build_model, _free_port, _make_batch

STATE = SchedulerState(version=1, evaluated=0, trained_groups=4, untrained_tasks=(), next_task=4)
OBJECTIVE = Objective(advantage=GroupMean(), surrogate=Clipped(), aggregate=TokenMean())


def make_run(root: Path, adapter: str) -> LearnerWorker:
    """A run folder with checkpoints of version 1 and 2, and the learner that was at version 2."""
    overrides = ["experiment=quickstart", f"adapter={adapter}"]
    plan = load_plan(overrides)
    root.mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(compose(overrides)), RunFolder(root).config)
    config = LearnerConfig(lr=0.05, mismatch_kl_limit=1e9, adapter=plan.learner.adapter)
    model = _build_model(root.parent / "model")
    worker = LearnerWorker(model, config, OBJECTIVE, 0, 1, "127.0.0.1", _free_port(), 0, 10)

    async def save(folder: Path) -> None:
        worker.save(folder)
        worker.export(folder / "policy")

    store = CheckpointStore(RunFolder(root).checkpoints, keep_last=2)
    for version in (1, 2):
        worker.train(_make_batch(seed=version, step=version - 1, rewards=[1, 0, 0, 1] * 4))
        asyncio.run(store.write(version, dataclasses.replace(STATE, version=version), save))
    return worker


@pytest.fixture(scope="module", params=["none", "lora"])
def run(request, tmp_path_factory):
    """(the run's folder, its learner, the name of its adapter)."""
    root = tmp_path_factory.mktemp(request.param) / "run"
    return root, make_run(root, request.param), request.param


@pytest.fixture(autouse=True)
def unprepared(monkeypatch):
    """This process is prepared already, and pytest holds the streams that `prepare` wants."""
    monkeypatch.setattr("orchestration.commands.export.prepare", lambda: None)


def logits_of(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor([[5, 9, 33, 7]])).logits


def test_the_newest_checkpoint_is_what_the_learner_has(run, tmp_path, capsys):
    """Weights bit for bit, logits of the learner's own model, files of the tokenizer, and nothing of the run."""
    root, worker, _ = run
    assert main(["export", str(root), str(tmp_path / "policy")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'policy'}\n"
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    torch.testing.assert_close(logits_of(model), logits_of(worker.policy.model), atol=1e-5, rtol=0)
    expected = safetensors.torch.load_file(root / "checkpoints/version_000002/policy/model.safetensors")
    found = safetensors.torch.load_file(tmp_path / "policy" / "model.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    source = {path.name for path in Path(worker.model_path).iterdir()}
    assert {path.name for path in (tmp_path / "policy").iterdir()} == source


def test_an_earlier_checkpoint_is_named_by_its_folder(run, tmp_path):
    root, worker, _ = run
    assert main(["export", str(root / "checkpoints" / "version_000001"), str(tmp_path / "policy")]) == 0
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    assert (logits_of(model) - logits_of(worker.policy.model)).abs().max() > 1e-3


def test_an_adapter_alone_is_one_of_peft(run, tmp_path, capsys):
    """peft puts it on the model the run started from, and the logits are the learner's; without LoRA it is refused."""
    root, worker, adapter = run
    code = main(["export", str(root), str(tmp_path / "adapter"), "--adapter"])
    if adapter == "none":
        assert code == 1
        assert "only plain LoRA" in capsys.readouterr().err
        assert not list(tmp_path.iterdir())
        return
    assert code == 0
    base = AutoModelForCausalLM.from_pretrained(worker.model_path)
    assert (logits_of(base) - logits_of(worker.policy.model)).abs().max() > 1e-3
    model = PeftModel.from_pretrained(base, tmp_path / "adapter")
    torch.testing.assert_close(logits_of(model), logits_of(worker.policy.model), atol=1e-5, rtol=0)
    assert model.peft_config["default"].base_model_name_or_path == str(worker.model_path)


def test_what_cannot_be_exported_is_named(run, tmp_path, capsys):
    """No run, a folder in use, a damaged checkpoint: one sentence, exit code 1 or 2, and no folder."""
    root, _, _ = run
    target = tmp_path / "target"
    assert main(["export", str(tmp_path), str(target)]) == 2
    assert "holds no policy" in capsys.readouterr().err
    assert main(["export", str(root), str(root)]) == 2
    assert "is not empty" in capsys.readouterr().err
    weights = root / "checkpoints" / "version_000002" / "policy" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-8])
    try:
        assert main(["export", str(root), str(target)]) == 1
    finally:
        weights.write_bytes(whole)
    assert "is damaged (policy/model.safetensors has" in capsys.readouterr().err
    assert not target.exists()


def test_a_run_stands_for_its_newest_checkpoint(run):
    root, _, _ = run
    folder, checkpoint = find_checkpoint(root)
    assert (folder.root, checkpoint.name) == (root.resolve(), "version_000002")
