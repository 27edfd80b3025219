import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import xxhash
from transformers import AutoModelForCausalLM

from learner.batch import trained_part
from learner.config import LearnerConfig
from learner.errors import BatchError, CheckpointError, DivergedError, MismatchError
from learner.messages import TrainBatch
from learner.objective import Objective
from learner.objective.advantage import GroupMean
from learner.objective.aggregate import TokenMean
from learner.objective.filters import MixedGroupsOnly
from learner.objective.regularisers import ReferenceKl
from learner.objective.surrogate import Clipped
from learner.objective.weights import TruncatedImportance
from learner.worker import LearnerWorker
from rollout.draw.distribution import entropy

OBJECTIVE = Objective(
    advantage=GroupMean(),
    surrogate=Clipped(eps_hi=0.28),
    aggregate=TokenMean(),
    weights={"mismatch": TruncatedImportance()},
    filters={"mixed": MixedGroupsOnly()},
)
ROOT = Path(__file__).parents[2]
# What DeepSpeed may wrap around the weights; ZeRO-3 is in test_ranks.py, since it changes torch for the whole process.
OPTIMIZERS = [
    (0, "float32"),
    (1, "float32"),
    (2, "float32"),
    (2, "bfloat16"),
    pytest.param(1, "bfloat16", marks=pytest.mark.slow),  # it looks through all of memory when it starts
]


@pytest.fixture
def start(model_path, free_port):
    """(**changes of the configuration) -> a learner of one rank; the process group is made once per process."""

    def start(path=model_path, objective=OBJECTIVE, total_steps=100, **changes) -> LearnerWorker:
        settings = {"lr": 1e-3, "mismatch_kl_limit": 1e9} | changes
        return LearnerWorker(path, LearnerConfig(**settings), objective, 0, 1, "127.0.0.1", free_port, 0, total_steps)

    return start


def weights_of(worker: LearnerWorker) -> dict[str, torch.Tensor]:
    return safetensors.torch.load(worker.publish()[1].tobytes())


def test_steps_equal_plain_pytorch(start, plain_learner, model_path, make_batch, drawn):
    """Loss, gradient norm, entropy and mismatch of three steps, and the weights after them, equal a plain loop's."""
    worker, plain = start(lr=4e-3, warmup_steps=4), plain_learner(model_path, torch.float32)
    for step in range(3):
        for group in plain.optimizer.param_groups:
            group["lr"] = 1e-3 * (step + 1)
        batch = drawn(make_batch(seed=step, step=step, groups=5))
        kept = trained_part(batch, OBJECTIVE).samples

        def of_policy(sample, values):
            return values if sample.trained is None else values[sample.trained]

        with torch.no_grad():
            sampled = np.concatenate([of_policy(s, s.sampler_logprobs) for s in kept])
            u = (torch.cat([plain.logprobs(s)[0] for s in kept]) - torch.from_numpy(sampled)).double()
            entropies = torch.cat([plain.logprobs(sample)[1] for sample in kept])
        recorded = [of_policy(s, s.entropies) for s in batch.samples if s.group not in {k.group for k in kept}]
        loss, norm = plain.step(batch)
        metrics = worker.train(batch).metrics
        assert metrics["train/loss"] == pytest.approx(loss, abs=1e-5)
        assert metrics["train/grad_norm"] == pytest.approx(norm, abs=1e-5, rel=1e-5)
        assert metrics["mismatch/kl"] == pytest.approx((u.exp() - 1 - u).mean().item(), rel=1e-4)
        assert metrics["mismatch/max_abs"] == pytest.approx(u.abs().max().item(), rel=1e-4)
        assert metrics["tis/clipped_fraction"] == pytest.approx((u.exp() > 2).double().mean().item())
        everything = np.concatenate([entropies.numpy(), *recorded])
        assert metrics["entropy/mean"] == pytest.approx(everything.mean(), rel=1e-4)
        assert metrics["learner/tokens"] == len(u)
        assert metrics["staleness/max"] == 0.0
    expected = plain.model.state_dict()
    for name, tensor in weights_of(worker).items():
        # A key bias hardly moves attention: Adam divides a gradient that is mostly rounding by its own size.
        atol = 1e-4 if name.endswith("k_proj.bias") else 1e-5
        torch.testing.assert_close(tensor, expected[name], atol=atol, rtol=0)


def gradient_of(worker: LearnerWorker, batch: TrainBatch) -> dict[str, torch.Tensor]:
    """The gradient of one step, caught where the optimizer would see it."""
    caught = {}

    def catch(lr):
        parameters = worker.policy.model.named_parameters()
        caught.update({name: parameter.grad.detach().clone() for name, parameter in parameters})
        return 1.0

    worker.engine.step = catch
    worker.train(batch)
    return caught


@pytest.mark.parametrize("layout", ["forest", "padded"])
@pytest.mark.parametrize("micro_batch_tokens", [1, 25, 10_000])
def test_gradient_equals_float64_autograd_however_the_batch_is_cut(
    layout, micro_batch_tokens, start, plain_learner, model_path, make_batch, drawn
):
    """The whole objective's gradient is that of a slow float64 loop, for any micro-batch size, layout and draw."""
    batch = drawn(make_batch(groups=5))
    plain = plain_learner(model_path)
    plain.loss(batch).backward()
    gradient = gradient_of(start(layout=layout, micro_batch_tokens=micro_batch_tokens), batch)
    for name, parameter in plain.model.named_parameters():
        scale = parameter.grad.abs().max().item()
        torch.testing.assert_close(gradient[name].double(), parameter.grad, atol=2e-5 * max(scale, 1e-3), rtol=1e-3)


@pytest.mark.parametrize("temperature", [1.0, None])
def test_packed_equals_padded(temperature, start, make_batch):
    """Loss and every gradient to 1e-5: shared prefixes computed once and attended in blocks, or a row a sequence."""
    batch = make_batch(groups=6, temperature=temperature)
    losses, gradients = [], []
    for layout in ("forest", "padded"):
        worker = start(layout=layout)
        gradients.append(gradient_of(worker, batch))
        losses.append(start(layout=layout).train(batch).metrics["train/loss"])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert max(one.abs().max() for one in gradients[0].values()) > 0.01
    for name, tensor in gradients[0].items():
        torch.testing.assert_close(tensor, gradients[1][name], atol=1e-5, rtol=0)


def test_the_order_of_samples_does_not_matter(start, make_batch):
    batch = make_batch(groups=5)
    order = np.random.default_rng(3).permutation(len(batch.samples))
    shuffled = dataclasses.replace(batch, samples=tuple(batch.samples[i] for i in order))
    first, second = gradient_of(start(), batch), gradient_of(start(), shuffled)
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("reward", [0.0, 1.0])
def test_a_batch_that_agrees_changes_nothing(reward, start, make_batch):
    """All wrong or all right: the weights stay, the version moves on, and every usual metric is reported."""
    worker = start(lr=1.0, weight_decay=0.5)
    usual = set(start().train(make_batch()).metrics)
    before = weights_of(worker)
    report = worker.train(make_batch(rewards=[reward] * 16))
    assert report.version == worker.version == 1
    assert set(report.metrics) == usual
    assert report.metrics["train/loss"] == report.metrics["train/kept_groups_fraction"] == 0.0
    recorded = np.concatenate([sample.entropies for sample in make_batch(rewards=[reward] * 16).samples])
    assert report.metrics["entropy/mean"] == pytest.approx(recorded.mean())
    after = weights_of(worker)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_batch_without_samples_changes_nothing(start):
    """When no verdict could be used there is nothing to learn from, which is no error of the learner."""
    report = start().train(TrainBatch(step=0, samples=()))
    assert report.version == 1
    assert report.metrics["learner/tokens"] == 0.0


def test_without_filter_an_all_correct_group_has_zero_loss_and_gradient(start, make_batch):
    objective = dataclasses.replace(OBJECTIVE, filters={})
    worker = start(objective=objective)
    metrics = worker.train(make_batch(groups=1, rewards=[1] * 4)).metrics
    assert metrics["train/loss"] == metrics["train/grad_norm"] == 0.0


def test_minibatches_freeze_the_old_policy(start, make_batch):
    """With two optimizer steps per batch the second one's ratio is taken to the policy before the first."""
    batch = make_batch(groups=2, rewards=[1, 0, 0, 1] * 2, temperature=1.0)
    worker = start(lr=0.05, minibatches=2)
    fresh = start()
    one = fresh.train(dataclasses.replace(batch, samples=batch.samples[:4])).metrics
    two = start().train(dataclasses.replace(batch, samples=batch.samples[4:])).metrics
    metrics = worker.train(batch).metrics
    assert metrics["mismatch/kl"] == pytest.approx((one["mismatch/kl"] + two["mismatch/kl"]) / 2, rel=1e-4)
    assert metrics["train/clip_fraction"] > 0.0
    assert one["train/clip_fraction"] == 0.0
    assert worker.version == 1


def test_the_reference_stays_where_the_run_started(start, plain_learner, model_path, make_batch, truncated):
    """The KL is 0 in the first step; later it is the one between the start's log-probabilities and the present ones."""
    objective = dataclasses.replace(OBJECTIVE, filters={}, regularisers={"kl": ReferenceKl(coefficient=0.0)})
    worker, first, plain = start(objective=objective), plain_learner(model_path), plain_learner(model_path)
    batch = truncated(make_batch(rewards=[1, 0, 0, 1] * 4))
    assert worker.train(batch).metrics["train/reference_kl"] == 0.0
    plain.model.load_state_dict(weights_of(worker))
    with torch.no_grad():
        d = torch.cat([first.logprobs(sample)[0] - plain.logprobs(sample)[0] for sample in batch.samples])
    metrics = worker.train(dataclasses.replace(batch, step=1)).metrics
    assert metrics["train/reference_kl"] == pytest.approx((d.exp() - d - 1).mean().item(), rel=1e-3)
    assert metrics["train/reference_kl"] > 1e-4


def test_publication_names_every_weight_and_vouches_for_it(start, make_batch):
    """Hugging Face names, the tied head under its own name too, checksum of the bytes, and a probe of these weights."""
    worker = start()
    worker.train(make_batch())
    record, payload = worker.publish()
    assert payload.dtype == np.uint8
    assert record.version == 1
    assert record.checksum == xxhash.xxh3_128_hexdigest(payload.tobytes())
    tensors = safetensors.torch.load(payload.tobytes())
    model = AutoModelForCausalLM.from_pretrained(worker.model_path)
    assert tensors.keys() == model.state_dict().keys()
    assert torch.equal(tensors["lm_head.weight"], tensors["model.embed_tokens.weight"])
    model.load_state_dict(tensors)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([record.probe_ids])).logits[0, -1]
    assert record.probe_entropy == pytest.approx(entropy(logits).item(), abs=1e-5)


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # DeepSpeed's import
@pytest.mark.parametrize(("stage", "dtype"), OPTIMIZERS)
def test_a_checkpoint_continues_bit_for_bit(stage, dtype, start, make_batch, tmp_path):
    """Save, take two more steps, load into a new learner, take them again: every number and every bit is the same."""
    settings = {"warmup_steps": 3, "zero_stage": stage, "dtype": dtype}
    worker = start(**settings)
    for step in range(2):
        worker.train(make_batch(seed=step, step=step))
    worker.save(tmp_path / "checkpoint")
    torch.rand(3)
    first = [worker.train(make_batch(seed=step, step=step)).metrics for step in (2, 3)]
    again = start(**settings)
    torch.manual_seed(99)
    again.load(tmp_path / "checkpoint")
    assert again.version == 2
    second = [again.train(make_batch(seed=step, step=step)).metrics for step in (2, 3)]
    for one, two in zip(first, second, strict=True):
        assert {**one, "learner/step_s": 0} == {**two, "learner/step_s": 0}
    assert worker.publish()[0] == again.publish()[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counter:
    """Counts trained steps and hands the number to the cap of the importance weights."""

    def start(self):
        return {"steps": 1e-9}

    def knobs(self, state):
        return {"weights.mismatch.cap": state["steps"]}

    def update(self, state, metrics):
        return {"steps": state["steps"] + metrics["train/kept_groups_fraction"]}


def test_a_checkpoint_keeps_controllers_and_random_state(start, make_batch, tmp_path):
    """What controllers learned and where the random numbers were goes on as if nothing had happened."""
    objective = dataclasses.replace(OBJECTIVE, controllers={"counter": Counter()})
    rewards = [1, 0, 0, 1] * 4
    worker = start(objective=objective)
    cut = [worker.train(make_batch(step=step, rewards=rewards)).metrics["tis/clipped_fraction"] for step in (0, 1)]
    assert cut[0] > cut[1]  # caps 1e-9 and 1 + 1e-9
    worker.save(tmp_path / "checkpoint")
    drawn = torch.rand(3)
    again = start(objective=objective)
    again.load(tmp_path / "checkpoint")
    assert again.controller_states == {"counter": {"steps": 2.0 + 1e-9}}
    assert torch.equal(torch.rand(3), drawn)
    with pytest.raises(CheckpointError, match=r"made with the controllers \['counter'\], the objective has \[\]"):
        start().load(tmp_path / "checkpoint")


def test_a_missing_checkpoint_is_named(start, tmp_path):
    with pytest.raises(CheckpointError, match="holds no learner checkpoint"):
        start().load(tmp_path)


def test_export_is_a_folder_any_tool_can_load(start, make_batch, tmp_path):
    """Weights are those published; tokenizer files of the source come along."""
    worker = start()
    worker.train(make_batch())
    worker.export(tmp_path / "policy")
    assert (tmp_path / "policy" / "tokenizer.json").exists()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    assert model.config.to_diff_dict() == AutoModelForCausalLM.from_pretrained(worker.model_path).config.to_diff_dict()
    assert model.config._attn_implementation == "sdpa"
    for name, tensor in weights_of(worker).items():
        assert torch.equal(tensor, model.state_dict()[name])


def test_a_batch_for_another_version_is_refused(start, make_batch):
    with pytest.raises(BatchError, match="step 3 was sent to a learner at version 0"):
        start().train(make_batch(step=3))


def test_a_loss_that_is_not_finite_stops_before_the_weights_move(start, make_batch):
    """The error names the step and the metric, and the weights are still those of the last version."""
    batch = make_batch(groups=1, rewards=[1, 0, 0, 1])
    worker = start()
    before = weights_of(worker)
    with torch.no_grad():
        worker.policy.model.model.norm.weight[0] = torch.inf
    with pytest.raises(DivergedError, match=r"step 0: .* is (nan|inf)"):
        worker.train(batch)
    after = weights_of(worker)
    assert all(torch.equal(before[name], after[name]) for name in before if name != "model.norm.weight")


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # DeepSpeed's import
@pytest.mark.parametrize(("stage", "dtype"), OPTIMIZERS)
def test_a_gradient_that_is_not_finite_stops_before_the_weights_move(stage, dtype, start, make_batch):
    """In every optimizer that DeepSpeed may wrap around the weights."""
    worker = start(zero_stage=stage, dtype=dtype)
    before = weights_of(worker)
    weight = worker.policy.model.model.norm.weight
    handle = weight.register_hook(lambda gradient: gradient * torch.nan)
    with pytest.raises(DivergedError, match="step 0: train/grad_norm is (nan|inf)"):
        worker.train(make_batch())
    handle.remove()
    assert all(torch.equal(before[name], tensor) for name, tensor in weights_of(worker).items())


def test_disagreement_with_the_engine_stops_the_run(start, make_batch):
    """Recorded log-probabilities far from the learner's own are an error that says what to check."""
    with pytest.raises(MismatchError, match=r"mismatch/kl .* above learner.mismatch_kl_limit = 0.01: check that"):
        start(mismatch_kl_limit=0.01).train(make_batch())


def test_staleness_counts_versions(start, make_batch):
    batch = make_batch()
    worker = start()
    worker.train(batch)
    metrics = worker.train(dataclasses.replace(batch, step=1)).metrics
    assert metrics["staleness/max"] == metrics["staleness/mean"] == 1.0


def test_importing_the_worker_does_not_import_transformers():
    """The driver of a run imports the worker's class; transformers takes seconds and needs a prepared process."""
    code = "import sys, learner.worker; sys.exit('transformers' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=240)
