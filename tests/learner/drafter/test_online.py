"""The drafter that is trained beside a policy: apart from it, kept, published, exported, and found again."""

import asyncio
import dataclasses
import json
import shutil
import threading

import pytest
import safetensors.torch
import torch
from transformers import AutoModelForCausalLM

from learner.adapters.lora import Lora
from learner.config import LearnerConfig
from learner.drafter.files import DRAFTER_FILE, PREFIX, add_drafter, tensors_of
from learner.drafter.layer import MtpLayer
from learner.drafter.online import OnlineDrafter
from learner.errors import CheckpointError, ModelError
from learner.messages import TrainBatch
from learner.objective import Objective
from learner.objective.advantage import GroupMean
from learner.objective.aggregate import TokenMean
from learner.objective.filters import MixedGroupsOnly
from learner.objective.surrogate import Clipped
from learner.worker import LearnerWorker
from learner.writing import Writing

OBJECTIVE = Objective(
    advantage=GroupMean(), surrogate=Clipped(), aggregate=TokenMean(), filters={"mixed": MixedGroupsOnly()}
)
DRAFTER = OnlineDrafter(drafts=3, lr=5e-3, warmup_steps=0, samples=100)


@pytest.fixture(scope="session")
def drafting_path(tmp_path_factory, model_path):
    """The small policy with an untrained drafter."""
    folder = tmp_path_factory.mktemp("drafting") / "model"
    shutil.copytree(model_path, folder)
    layer = MtpLayer.like_last_layer(AutoModelForCausalLM.from_pretrained(folder))
    add_drafter(tensors_of(layer, torch.float32), folder)
    return folder


@pytest.fixture
def start(drafting_path, free_port):
    def start(path=drafting_path, drafter=DRAFTER, **changes) -> LearnerWorker:
        config = LearnerConfig(**{"lr": 1e-3, "mismatch_kl_limit": 1e9, "drafter": drafter} | changes)
        return LearnerWorker(path, config, OBJECTIVE, 0, 1, "127.0.0.1", free_port, 0, 100)

    return start


def weights_of(worker: LearnerWorker) -> dict[str, torch.Tensor]:
    return safetensors.torch.load(worker.publish()[1].tobytes())


def drafter_of(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: one for name, one in weights.items() if name.startswith(PREFIX)}


def test_the_policy_learns_the_same_with_and_without_it(start, make_batch):
    """To the bit, its metrics too; and the drafter's step leaves no gradient in the policy."""
    plain, both = start(drafter=None), start()
    for step in range(2):
        batch = make_batch(seed=step, step=step)
        first, second = plain.train(batch).metrics, both.train(batch).metrics
        assert {**first, "learner/step_s": 0}.items() <= {**second, "learner/step_s": 0}.items()
        assert second["drafter/grad_norm"] > 0
    theirs = weights_of(both)
    for name, tensor in weights_of(plain).items():
        assert torch.equal(tensor, theirs[name])
    both.engine.engine.zero_grad()
    both.policy.zero_grad(set_to_none=True)
    both.drafter.step(both.policy, batch.samples, both.engine.gathered, 2)
    assert all(parameter.grad is None for parameter in both.policy.parameters())


@pytest.mark.parametrize("loss", ["cross_entropy", "soft_cross_entropy", "kl", "total_variation", "end_to_end"])
def test_on_one_batch_every_loss_falls(loss, start, make_batch, truncated, with_context):
    """Fifteen steps on the same rollouts, cut and with context in them, with a policy that all but stands still."""
    worker = start(lr=1e-12, drafter=dataclasses.replace(DRAFTER, loss=loss))
    batch = with_context(truncated(make_batch(groups=3)))
    found = [worker.train(TrainBatch(step=step, samples=batch.samples)).metrics for step in range(15)]
    assert found[-1]["drafter/loss"] < found[0]["drafter/loss"] - 0.02
    if loss != "cross_entropy":  # the tokens are not what the policy would draw, and it fits the tokens
        assert found[-1]["drafter/kept_fraction"] > found[0]["drafter/kept_fraction"]


def test_a_step_without_a_gradient_for_the_policy_trains_the_drafter_too(start, make_batch):
    """Groups that agree among themselves are filtered from the objective, and as good as others to draft in."""
    worker = start()
    before = drafter_of(weights_of(worker))
    metrics = worker.train(make_batch(rewards=[1] * 16)).metrics
    assert metrics["train/kept_groups_fraction"] == 0.0
    after = drafter_of(weights_of(worker))
    assert any(not torch.equal(one, after[name]) for name, one in before.items())


def test_every_and_samples_are_kept_to(start, make_batch):
    """With every=2 the drafter stands still at odd steps; of a batch it reads as many rollouts as it is told."""
    worker = start(drafter=dataclasses.replace(DRAFTER, every=2, samples=5))
    assert len(worker.drafter._chosen(make_batch().samples, 0)) == 5
    assert "drafter/loss" in worker.train(make_batch(step=0)).metrics
    before = drafter_of(weights_of(worker))
    assert "drafter/loss" not in worker.train(make_batch(step=1)).metrics
    assert all(torch.equal(one, before[name]) for name, one in drafter_of(weights_of(worker)).items())


def test_a_checkpoint_continues_the_drafter_bit_for_bit(start, make_batch, monkeypatch, tmp_path):
    """Weights and optimizer, as they were when it was begun; a checkpoint of a run that trained none is refused."""
    worker = start()
    worker.train(make_batch())
    published = drafter_of(weights_of(worker))
    batch = make_batch(seed=1, step=1)
    run = Writing.run
    ready = threading.Event()
    monkeypatch.setattr(Writing, "run", lambda writing: ready.wait(30) and run(writing))
    worker.begin_save(tmp_path / "with", tmp_path / "policy")
    first = worker.train(batch).metrics
    ready.set()
    asyncio.run(worker.finish_save(tmp_path / "with"))
    exported = safetensors.torch.load_file(tmp_path / "policy" / DRAFTER_FILE)
    assert all(torch.equal(one, exported[name]) for name, one in published.items())
    again = start()
    again.load(tmp_path / "with")
    second = again.train(batch).metrics
    assert {**first, "learner/step_s": 0} == {**second, "learner/step_s": 0}
    assert worker.publish()[0] == again.publish()[0]
    start(drafter=None).save(tmp_path / "without")
    with pytest.raises(CheckpointError, match="did not train a drafter, so set drafter=frozen"):
        start().load(tmp_path / "without")


def test_it_is_published_and_exported_under_the_names_vllm_loads(start, make_batch, drafting_path, tmp_path):
    """In every publication; and an exported folder holds the trained drafter, not that of the start."""
    worker = start()
    worker.train(make_batch())
    published = drafter_of(weights_of(worker))
    there = safetensors.torch.load_file(drafting_path / DRAFTER_FILE)
    assert published.keys() == there.keys()
    assert not torch.equal(published[PREFIX + "input_proj.weight"], there[PREFIX + "input_proj.weight"])
    worker.export(tmp_path / "policy")
    exported = safetensors.torch.load_file(tmp_path / "policy" / DRAFTER_FILE)
    assert all(torch.equal(one, exported[name]) for name, one in published.items())
    assert json.loads((tmp_path / "policy" / "config.json").read_text())["architectures"] == ["MiMoForCausalLM"]
    again = start(path=tmp_path / "policy")
    assert all(torch.equal(one, published[name]) for name, one in drafter_of(weights_of(again)).items())


def test_it_travels_with_an_adapter_alone(start, make_batch):
    """Two matrices a layer of the policy, and the whole drafter, which reads the adapted policy's hidden states."""
    worker = start(adapter=Lora(rank=4))
    worker.train(make_batch())
    payload = weights_of(worker)
    assert len(drafter_of(payload)) == len(list(worker.drafter.layer.parameters()))
    assert all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in payload.keys() - drafter_of(payload))


def test_a_model_without_a_drafter_is_refused(start, model_path, build_model, tmp_path):
    """One sentence, that says what to do."""
    with pytest.raises(ModelError, match="has no drafter .* `temper train-drafter`"):
        start(path=model_path)
    other = build_model(tmp_path / "other", hidden_size=16)
    shutil.copyfile(start().model_path / DRAFTER_FILE, other / DRAFTER_FILE)
    with pytest.raises(ModelError, match="does not fit its policy"):
        start(path=other)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"drafts": 0}, "learner.drafter.drafts is at least 1, got 0"),
        ({"every": 0}, "learner.drafter.every is at least 1, got 0"),
        ({"lr": 0.0}, "learner.drafter.lr is positive, got 0.0"),
    ],
)
def test_impossible_values_are_refused(changes, sentence):
    """By name and value."""
    with pytest.raises(ValueError, match=sentence):
        OnlineDrafter(**changes)
