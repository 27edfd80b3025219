import dataclasses

import numpy as np
import pytest
import safetensors.torch
import torch
from torch.distributions import Bernoulli, Beta
from transformers import AutoModelForCausalLM

from learner.batch import counts_of, shares, trained_part
from learner.config import LearnerConfig
from learner.errors import BatchError, CheckpointError
from learner.messages import HeadActions, TrainBatch
from learner.objective import Objective
from learner.objective.advantage import GroupMean
from learner.objective.aggregate import TokenMean
from learner.objective.filters import MixedGroupsOnly
from learner.objective.head import HeadTraining
from learner.objective.regularisers import EntropyBonus
from learner.objective.surrogate import Clipped
from learner.worker import LearnerWorker
from rollout.draw.learned import (
    HEAD_FILE,
    HEAD_PREFIX,
    Learned,
    TemperatureHead,
    action_logprob,
    chain,
    draw_actions,
    z_of,
)

POLICY = Learned()
TOKENS = Objective(
    advantage=GroupMean(),
    surrogate=Clipped(),
    aggregate=TokenMean(),
    filters={"mixed": MixedGroupsOnly()},
    regularisers={"bonus": EntropyBonus(coefficient=0.01)},
)
BOTH = dataclasses.replace(TOKENS, head=HeadTraining(policy=POLICY))


@pytest.fixture
def start(model_path, free_port):
    def start(path=model_path, objective=BOTH, **changes) -> LearnerWorker:
        settings = {"lr": 1e-3, "mismatch_kl_limit": 1e9} | changes
        return LearnerWorker(path, LearnerConfig(**settings), objective, 0, 1, "127.0.0.1", free_port, 0, 100)

    return start


def shake(worker: LearnerWorker) -> None:
    """An untrained head says the same everywhere, whatever it reads."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in worker.head.head.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))


def weights_of(worker: LearnerWorker) -> dict[str, torch.Tensor]:
    return safetensors.torch.load(worker.publish()[1].tobytes())


def slow_loss(head, model, batch) -> torch.Tensor:
    """Action by action in float64, with the distributions of torch."""
    total, count = 0.0, 0
    for group in sorted({sample.group for sample in batch.samples}):
        members = [sample for sample in batch.samples if sample.group == group]
        members = [s for s in members if s.trained is None or s.trained.any()]
        rewards = torch.tensor([sample.reward for sample in members], dtype=torch.float64)
        if rewards.max() == rewards.min():
            continue
        for sample, advantage in zip(members, (rewards - rewards.mean()) / (rewards.std() + 1e-6), strict=True):
            ids = torch.tensor([[*sample.prompt_ids, *sample.response_ids]], dtype=torch.int64)
            hidden = model.base_model(input_ids=ids).last_hidden_state[0]
            for place in range(len(sample.response_ids)):
                if sample.trained is not None and not sample.trained[place]:
                    continue
                u = head(hidden[len(sample.prompt_ids) - 1 + place].detach())
                lp = Bernoulli(logits=u[0]).log_prob(torch.tensor(float(sample.head.changes[place])).double())
                if sample.head.changes[place]:
                    shapes = torch.nn.functional.softplus(u[1:]) + POLICY.epsilon
                    z = (float(sample.temperatures[place]) - POLICY.tau_min) / (POLICY.tau_max - POLICY.tau_min)
                    lp = lp + Beta(shapes[0], shapes[1]).log_prob(torch.tensor(z).double().clamp(1e-4, 1 - 1e-4))
                weight = (lp.detach() - float(sample.head.logprobs[place])).exp().clamp(max=2.0)
                total = total - weight * advantage * (lp - lp.detach()).exp()
                count += 1
    return total / count


@pytest.mark.parametrize("micro_batch_tokens", [20, 10_000])
def test_loss_and_gradient_of_the_head_equal_a_slow_loop(
    micro_batch_tokens, start, make_batch, with_actions, drawn, model_path
):
    """However the batch is cut and drawn; and the policy has no gradient in this phase."""
    worker = start(micro_batch_tokens=micro_batch_tokens)
    shake(worker)
    batch = drawn(with_actions(make_batch(groups=5, rewards=[1, 0, 0, 1] * 5)))
    exact = TemperatureHead(32).double()
    exact.load_state_dict(worker.head.head.state_dict())
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float64).eval()
    expected = slow_loss(exact, model, batch)
    expected.backward()

    worker.head.optimizer.step = lambda: None
    trained = trained_part(batch, BOTH)
    (plan,) = shares(trained.samples, 1, micro_batch_tokens)
    micros = [worker.policy.micro_batch(trained, share) for share in plan]
    metrics = worker.head.step(worker.policy, micros, BOTH, counts_of(trained.samples), 0)
    assert metrics["head/loss"] == pytest.approx(expected.item(), abs=1e-5)
    norm = sum(parameter.grad.square().sum() for parameter in exact.parameters()).sqrt().item()
    assert metrics["head/grad_norm"] == pytest.approx(norm, rel=1e-4)
    clip = min(1.0, 1.0 / norm)
    for mine, theirs in zip(worker.head.head.parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(mine.grad.double(), clip * theirs.grad, atol=1e-5, rtol=1e-3)
    assert all(parameter.grad is None for parameter in worker.policy.parameters())


def test_the_policy_learns_the_same_with_and_without_the_heads_phase(start, make_batch, with_actions):
    """To the bit: the tokens' phase divides by the recorded temperatures, whoever chose them."""
    plain, both = start(objective=TOKENS), start()
    for step in range(2):
        batch = make_batch(seed=step, step=step)
        first, second = plain.train(batch).metrics, both.train(with_actions(batch)).metrics
        assert {**first, "learner/step_s": 0}.items() <= {**second, "learner/step_s": 0}.items()
    theta = {name: one for name, one in weights_of(both).items() if not name.startswith(HEAD_PREFIX)}
    assert all(torch.equal(tensor, theta[name]) for name, tensor in weights_of(plain).items())


def act(worker: LearnerWorker, batch):
    """The batch with temperatures that the worker's own head chose at the worker's own hidden states."""
    torch.manual_seed(0)
    samples = []
    for sample in batch.samples:
        ids = torch.tensor([[*sample.prompt_ids, *sample.response_ids]], dtype=torch.int64)
        with torch.no_grad():
            hidden = worker.policy.model.base_model(input_ids=ids, layout=None).last_hidden_state[0]
            u = worker.head.head(hidden[len(sample.prompt_ids) - 1 : -1])
            changes, z = draw_actions(u, POLICY)
            taus = chain(changes[None], z[None], torch.tensor([POLICY.tau_0]), POLICY)[0]
            logprobs = action_logprob(u, changes, z_of(taus, POLICY), POLICY)
        actions = HeadActions(changes=changes.numpy(), logprobs=logprobs.numpy())
        samples.append(dataclasses.replace(sample, head=actions, temperatures=taus.numpy()))
    return dataclasses.replace(batch, samples=tuple(samples))


def test_actions_of_the_present_head_are_on_policy(start, make_batch):
    """The learner's log-probabilities of what its own head did are the recorded ones."""
    worker = start()
    shake(worker)
    metrics = worker.train(act(worker, make_batch(groups=5, rewards=[1, 0, 0, 1] * 5))).metrics
    assert metrics["head/mismatch_kl"] < 1e-8
    assert metrics["head/clip_fraction"] == 0.0


def test_a_head_that_never_changes_leaves_one_temperature(start, make_batch):
    """P(change) = 0: every token is drawn at tau_0, so the tokens' phase is plain GRPO at that temperature."""
    worker = start()
    with torch.no_grad():
        worker.head.head.outer.bias[0] = -1e9
    batch = act(worker, make_batch())
    assert all((sample.temperatures == POLICY.tau_0).all() for sample in batch.samples)
    assert worker.train(batch).metrics["head/change_fraction"] == 0.0


def test_what_is_rewarded_is_done_more_often(start, make_sample):
    """Right where the head changed, wrong where it stayed: soon it changes more often, and to what was right."""
    rng = np.random.default_rng(0)
    samples = []
    for right in (1.0, 0.0):
        sample = make_sample(rng, 0, [3, 4], [5, 6, 7], right, temperature=1.4 if right else 1.0)
        changes = np.full(3, bool(right))
        samples.append(dataclasses.replace(sample, head=HeadActions(changes=changes, logprobs=np.zeros(3, np.float32))))
    head = HeadTraining(policy=POLICY, lr=0.02, weights={})
    worker = start(lr=1e-9, objective=dataclasses.replace(BOTH, head=head))
    for step in range(20):
        batch = TrainBatch(step=step, samples=tuple(samples))
        worker.train(batch)
    with torch.no_grad():
        u = worker.head.head.outer.bias
        assert u[0] > -2.0
        assert u[1] > u[2], "Beta leans towards the rewarded 1.4 of [0.3, 1.5]"


def test_the_head_is_published_exported_and_found_again(start, make_batch, with_actions, tmp_path):
    """Under the names the engine takes, and in the place of a model folder where both sides look for it."""
    worker = start()
    worker.train(with_actions(make_batch()))
    head = worker.head.head.state_dict()
    published = weights_of(worker)
    assert {name for name in published if name.startswith(HEAD_PREFIX)} == {HEAD_PREFIX + name for name in head}
    assert not torch.equal(head["outer.weight"], torch.zeros_like(head["outer.weight"]))
    worker.export(tmp_path / "policy")
    assert (tmp_path / "policy" / HEAD_FILE).is_file()
    again = start(path=tmp_path / "policy")
    for name, tensor in again.head.head.state_dict().items():
        assert torch.equal(tensor, head[name])
        assert torch.equal(tensor, published[HEAD_PREFIX + name])


def test_a_checkpoint_continues_the_head_bit_for_bit(start, make_batch, with_actions, tmp_path):
    """Weights and optimizer; a checkpoint of a run without a head is refused."""
    worker = start()
    worker.train(with_actions(make_batch()))
    worker.save(tmp_path / "with")
    again = start()
    again.load(tmp_path / "with")
    batch = with_actions(make_batch(seed=1, step=1))
    first, second = worker.train(batch).metrics, again.train(batch).metrics
    assert {**first, "learner/step_s": 0} == {**second, "learner/step_s": 0}
    assert worker.publish()[0] == again.publish()[0]
    start(objective=TOKENS).save(tmp_path / "without")
    with pytest.raises(CheckpointError, match="did not train a temperature head"):
        start().load(tmp_path / "without")


def test_samples_without_actions_are_refused(start, make_batch):
    with pytest.raises(BatchError, match="carries no actions of one: draw with temperature=learned"):
        start().train(make_batch())
