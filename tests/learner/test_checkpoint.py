"""What is saved is enough to go on as if nothing had happened; what cannot be gone on from is named."""

import asyncio
import dataclasses
import json
import signal
import threading
from pathlib import Path

import pytest
import safetensors.torch
import torch

from learner import checkpoint
from learner.adapters.lora import Lora
from learner.config import LearnerConfig
from learner.errors import CheckpointError
from learner.worker import LearnerWorker
from learner.writing import Writing
from tests.learner.objective.test_objective import ALGORITHMS, CONF, objective_of
from tests.learner.rank_main import Job
from tests.learner.test_ranks import OBJECTIVE, run_ranks

TOTAL = 5
CONTROLLED = [file.stem for file in ALGORITHMS if objective_of(file).controllers]


@pytest.fixture
def start(model_path, free_port):
    def start(**changes) -> LearnerWorker:
        config = LearnerConfig(**({"lr": 1e-3, "warmup_steps": 3, "mismatch_kl_limit": 1e9} | changes))
        return LearnerWorker(model_path, config, OBJECTIVE, 0, 1, "127.0.0.1", free_port, 0, TOTAL)

    return start


def test_a_killed_learner_goes_on_bit_for_bit(start, model_path, make_batch, with_actions, new_port, tmp_path):
    """Saved after two steps, killed in the third; another process takes it again, and one more, as if never stopped."""
    batches = [with_actions(make_batch(seed=step, step=step)) for step in range(4)]
    whole = start()
    expected = [whole.train(batch).metrics for batch in batches]
    saved = tmp_path / "checkpoint"
    job = Job(
        model=model_path,
        config=whole.config,
        objective=OBJECTIVE,
        batches=batches[:3],
        total_steps=TOTAL,
        save_to=saved,
        killed=True,
    )
    run_ranks(1, {"killed": job}, tmp_path, new_port(), exit_code=-signal.SIGKILL)
    again = start()
    again.load(saved)
    assert again.version == 2
    for batch, metrics in zip(batches[2:], expected[2:], strict=True):
        assert again.train(batch).metrics | {"learner/step_s": 0} == metrics | {"learner/step_s": 0}
    assert again.publish()[0] == whole.publish()[0]


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # DeepSpeed's import
def test_moments_and_weights_are_those_of_adamw(start, make_batch, with_actions, tmp_path):
    """The file holds, by parameter and in float32, what two steps of Adam by hand give, in every optimizer's layout."""
    batches = [with_actions(make_batch(seed=step, step=step, rewards=[1, 0, 0, 1] * 4)) for step in range(2)]
    name = "model.model.layers.0.mlp.up_proj.weight"
    files = {}
    for stage in (0, 2):
        worker = start(zero_stage=stage, max_grad_norm=1e9)
        gradients = []
        handle = worker.policy.get_parameter(name).register_hook(
            lambda one, found=gradients: found.append(one.double())
        )
        before = worker.policy.get_parameter(name).detach().clone().double()
        worker.train(batches[0])
        first, second = sum(gradients), len(gradients)
        worker.train(batches[1])
        handle.remove()
        second = sum(gradients[second:])
        worker.save(tmp_path / str(stage))
        files[stage] = safetensors.torch.load_file(tmp_path / str(stage) / checkpoint.TENSORS)
        moment, square, weight = torch.zeros_like(before), torch.zeros_like(before), before
        for step, gradient in enumerate((first, second)):
            moment = 0.9 * moment + 0.1 * gradient
            square = 0.95 * square + 0.05 * gradient**2
            mean, deviation = moment / (1 - 0.9 ** (step + 1)), (square / (1 - 0.95 ** (step + 1))).sqrt()
            weight = weight - 1e-3 * (step + 1) / 3 * mean / (deviation + 1e-8)
        for kind, expected in (("exp_avg", moment), ("exp_avg_sq", square), ("weight", weight)):
            torch.testing.assert_close(files[stage][f"{kind}/{name}"].double(), expected, atol=1e-6, rtol=1e-4)
    assert files[0].keys() == files[2].keys()
    assert json.loads((tmp_path / "0" / checkpoint.STATE).read_text())["optimizer_steps"] == 2


def test_a_checkpoint_from_before_the_first_step_can_be_gone_on_from(start, make_batch, with_actions, tmp_path):
    """Also by a learner that had already moved."""
    batch = with_actions(make_batch())
    fresh, moved = start(), start()
    fresh.save(tmp_path)
    moved.train(batch)
    moved.load(tmp_path)
    assert moved.version == 0
    fresh.train(batch)
    moved.train(batch)
    assert moved.publish()[0] == fresh.publish()[0]


@pytest.mark.parametrize("name", CONTROLLED)
def test_what_controllers_learned_is_kept_to_the_bit(name, model_path, make_batch, free_port, tmp_path):
    """Of every method that has one."""
    objective = objective_of(CONF / "algorithm" / f"{name}.yaml")
    arguments = (model_path, LearnerConfig(mismatch_kl_limit=1e9), objective, 0, 1, "127.0.0.1", free_port, 0, TOTAL)
    worker, again = LearnerWorker(*arguments), LearnerWorker(*arguments)
    worker.train(make_batch(rewards=[1, 0, 0, 1] * 4))
    worker.save(tmp_path)
    again.load(tmp_path)
    assert again.controller_states == worker.controller_states
    assert set(again.controller_states) == set(objective.controllers)


def test_a_rank_that_was_not_there_starts_as_in_a_new_run(start, tmp_path):
    """Its random numbers are those of its seed; the others' go on."""
    start().save(tmp_path)
    (tmp_path / "random-0.pt").unlink()
    again = start()
    expected = torch.get_rng_state()
    again.load(tmp_path)
    assert torch.equal(torch.get_rng_state(), expected)


@pytest.mark.parametrize("file", [checkpoint.TENSORS, checkpoint.STATE])
def test_a_damaged_file_is_named(file, start, tmp_path):
    start().save(tmp_path)
    (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:20])
    with pytest.raises(CheckpointError, match=f"{tmp_path} cannot be read"):
        start().load(tmp_path)


def test_another_model_is_refused(start, build_model, tmp_path, free_port):
    """Nothing is changed before the names and shapes are compared."""
    start().save(tmp_path / "checkpoint")
    path = build_model(tmp_path / "other", num_hidden_layers=1)
    config = LearnerConfig()
    other = LearnerWorker(path, config, dataclasses.replace(OBJECTIVE, head=None), 0, 1, "127.0.0.1", free_port, 0, 1)
    before = [one.detach().clone() for one in other.policy.parameters()]
    with pytest.raises(CheckpointError, match=r"another model or adapter: \d+ tensors differ, such as .*\.layers\.1\."):
        other.load(tmp_path / "checkpoint")
    assert all(torch.equal(*pair) for pair in zip(before, other.policy.parameters(), strict=True))


def test_every_value_is_taken_though_the_disk_is_full(tmp_path):
    """Other ranks help to make each and would wait for ever; the error comes afterwards."""
    taken = []

    def values():
        for index in range(3):
            taken.append(index)
            yield torch.zeros(4)

    shapes = {str(index): torch.empty(4) for index in range(3)}
    (tmp_path / checkpoint.TENSORS).mkdir()  # stands for a disk that takes nothing
    with pytest.raises(OSError, match=checkpoint.TENSORS):
        checkpoint.write_tensors(tmp_path / checkpoint.TENSORS, shapes, values())
    assert taken == [0, 1, 2]


@pytest.fixture
def disk(monkeypatch) -> threading.Event:
    """While it is cleared, writing in the background waits, for a while."""
    ready, run = threading.Event(), Writing.run

    def later(writing: Writing) -> dict[str, int]:
        ready.wait(30)
        return run(writing)

    monkeypatch.setattr(Writing, "run", later)
    ready.set()
    return ready


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # DeepSpeed's import
@pytest.mark.parametrize(
    "changes",
    [{}, {"zero_stage": 2}, {"zero_stage": 2, "dtype": "bfloat16"}, {"adapter": Lora(rank=2)}],
    ids=["whole", "zero-2", "bfloat16", "adapter"],
)
def test_training_goes_on_while_files_are_written_and_leaves_no_trace_in_them(
    changes, start, make_batch, with_actions, disk, tmp_path
):
    """Byte for byte those of a save that was finished before the step; `policy/` and the head's files among them."""
    batches = [with_actions(make_batch(seed=step, step=step)) for step in range(2)]
    worker = start(**changes)
    worker.train(batches[0])
    worker.save(tmp_path / "before", tmp_path / "before" / "policy")
    disk.clear()
    worker.begin_save(tmp_path / "beside", tmp_path / "beside" / "policy")
    saved = worker.publish()[0]
    worker.train(batches[1])
    torch.rand(3)
    assert worker.publish()[0].checksum != saved.checksum
    assert not (tmp_path / "beside").exists()
    disk.set()
    sizes = asyncio.run(worker.finish_save(tmp_path / "beside"))
    before, beside = files_of(tmp_path / "before"), files_of(tmp_path / "beside")
    assert beside == before
    assert {"trained.safetensors", "learner.json", "random-0.pt", "temperature_head.pt"} < beside.keys()
    assert {
        "policy/model.safetensors",
        "policy/config.json",
        "policy/temperature_head/head.safetensors",
    } < beside.keys()
    assert sizes == {str(tmp_path / "beside" / name): len(content) for name, content in beside.items()}


def test_without_copies_files_are_written_before_training_goes_on(start, make_batch, with_actions, disk, tmp_path):
    """The same files, with nothing held in memory."""
    copying, streaming = start(), start(copy_checkpoints=False)
    for worker, folder in ((copying, "copied"), (streaming, "streamed")):
        worker.train(with_actions(make_batch()))
        torch.manual_seed(1)
        disk.clear()
        worker.begin_save(tmp_path / folder, tmp_path / folder / "policy")
        assert (tmp_path / folder / "policy" / "model.safetensors").exists() == (folder == "streamed")
        disk.set()
        asyncio.run(worker.finish_save(tmp_path / folder))
    copied, streamed = files_of(tmp_path / "copied"), files_of(tmp_path / "streamed")
    assert copied.keys() == streamed.keys()
    assert {name for name in copied if copied[name] != streamed[name]} <= {"temperature_head.pt"}  # pickled as it is
    streaming.load(tmp_path / "copied")
    copying.load(tmp_path / "streamed")
    batch = with_actions(make_batch(seed=1, step=1))
    first, second = streaming.train(batch).metrics, copying.train(batch).metrics
    assert first | {"learner/step_s": 0} == second | {"learner/step_s": 0}


@pytest.mark.parametrize("copied", [True, False])
def test_what_the_disk_refuses_reaches_whoever_waits(copied, start, make_batch, with_actions, tmp_path):
    """Not the training beside it; the next save can work."""
    worker = start(copy_checkpoints=copied)
    (tmp_path / "bad" / checkpoint.TENSORS).mkdir(parents=True)
    worker.begin_save(tmp_path / "bad")
    worker.train(with_actions(make_batch()))
    with pytest.raises(CheckpointError, match=rf"cannot write {tmp_path}/bad/{checkpoint.TENSORS} .*Is a directory"):
        asyncio.run(worker.finish_save(tmp_path / "bad"))
    with pytest.raises(CheckpointError, match="no checkpoint is being written to"):
        asyncio.run(worker.finish_save(tmp_path / "bad"))
    worker.save(tmp_path / "good")
    again = start()
    again.load(tmp_path / "good")
    assert again.version == 1
