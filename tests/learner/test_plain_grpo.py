"""On-policy, at temperature 1 and without corrections, the learner is a plain GRPO - whatever else it can do."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from learner.config import LearnerConfig
from learner.messages import TrainBatch, TrainSample
from learner.worker import LearnerWorker
from tests.learner.plain_grpo import PlainGrpo, Rollouts

CONF = Path(__file__).parents[2] / "conf"
STEPS, GROUPS, SIZE, TOKENS, END = 20, 4, 6, 8, 2


def train_batch(step: int, rollouts: Rollouts) -> TrainBatch:
    """The same rollouts as messages."""
    samples = []
    for row, (ids, inside) in enumerate(zip(rollouts.ids, rollouts.response, strict=True)):
        first = int(inside.nonzero()[0])
        logprobs = rollouts.logprobs[row][inside].numpy()
        reward = float(rollouts.rewards.flatten()[row])
        samples.append(
            TrainSample(
                group=row // SIZE,
                prompt_ids=ids[:first].numpy().astype(np.int32),
                response_ids=ids[inside].numpy().astype(np.int32),
                sampler_logprobs=logprobs,
                temperatures=np.ones_like(logprobs),
                entropies=np.ones_like(logprobs),
                versions=np.full(len(logprobs), step, np.int32),
                reward=reward,
                unshaped=reward,
            )
        )
    return TrainBatch(step=step, samples=tuple(samples))


def even(response: torch.Tensor) -> bool:
    return int(response.sum()) % 2 == 0


@pytest.mark.parametrize(("minibatches", "lr"), [(1, 2e-3), (2, 5e-3)])
def test_twenty_steps_are_those_of_a_plain_grpo(minibatches, lr, build_model, free_port, tmp_path):
    """Losses, gradient norms and all weights to 1e-5; with two minibatches a step, tokens are clipped as well."""
    path = build_model(tmp_path, "qwen3", head_dim=8, initializer_range=0.15)
    objective = instantiate(OmegaConf.load(CONF / "algorithm" / "grpo.yaml"), _convert_="all")
    objective = dataclasses.replace(objective, weights={})  # ~algorithm.weights.mismatch
    config = LearnerConfig(lr=lr, minibatches=minibatches, micro_batch_tokens=60)
    learner = LearnerWorker(path, config, objective, 0, 1, "127.0.0.1", free_port, 0, STEPS)
    plain = PlainGrpo(path, lr=lr, minibatches=minibatches)
    torch.manual_seed(0)
    clipped = 0.0
    for step in range(STEPS):
        rollouts = plain.sample(torch.randint(3, 61, (GROUPS, 4)), SIZE, TOKENS, END, even)
        metrics = learner.train(train_batch(step, rollouts)).metrics
        loss, norm, fraction = plain.step(rollouts)
        assert metrics["train/loss"] == pytest.approx(loss, abs=1e-5)
        assert metrics["train/grad_norm"] == pytest.approx(norm, abs=1e-5, rel=1e-5)
        assert metrics["train/clip_fraction"] == pytest.approx(fraction, abs=1e-5)
        assert metrics["mismatch/max_abs"] < 1e-4  # the sampler was the policy
        clipped += fraction
    assert (clipped > 0) == (minibatches > 1)
    expected = plain.model.state_dict()
    for name, tensor in safetensors.torch.load(learner.publish()[1].tobytes()).items():
        torch.testing.assert_close(
            tensor, expected[name], atol=1e-5, rtol=0, msg=lambda text, name=name: f"{name} {text}"
        )
