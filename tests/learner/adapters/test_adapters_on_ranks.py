"""Adapters on two ranks, at every ZeRO stage, through a checkpoint: what one process learns."""

import dataclasses
from functools import partial

import pytest
import safetensors.torch
import torch

from learner.adapters.lora import Lora
from learner.adapters.lora_moe import LoraMoe
from learner.config import LearnerConfig
from learner.objective.regularisers import ReferenceKl
from tests.learner.adapters.conftest import OBJECTIVE
from tests.learner.test_ranks import STAGES, learned_alone_and_on_two_ranks

WITH_KL = dataclasses.replace(OBJECTIVE, regularisers={"kl": ReferenceKl(coefficient=0.1)})
ADAPTERS = {"lora": Lora(rank=4, dropout=0.0), "static mix": LoraMoe(routing="static", experts=2, rank=2)}
STEPS = 3


def config_of(adapter, ranks, stage) -> LearnerConfig:
    return LearnerConfig(
        lr=1e-2, ranks=ranks, zero_stage=stage, micro_batch_tokens=15, mismatch_kl_limit=1e9, adapter=adapter
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ADAPTERS)
def test_two_ranks_learn_what_one_learns(name, model_path, make_batch, new_port, tmp_path):
    """Losses, gradient norms, the KL to the reference and what is published, at ZeRO-0 to 3, the same on both ranks."""
    adapter = ADAPTERS[name]
    batches = [make_batch(seed=step, step=step, rewards=[1, 0, 0, 1] * 4) for step in range(STEPS)]
    metrics, payload, answers = learned_alone_and_on_two_ranks(
        model_path, WITH_KL, partial(config_of, adapter), batches, tmp_path, new_port
    )
    expected = safetensors.torch.load(payload)
    for stage in STAGES:
        assert answers[0][stage].record == answers[1][stage].record
        for answer in (each[stage] for each in answers):
            for ours, theirs in zip(metrics, answer.metrics, strict=True):
                for metric in ("train/loss", "train/grad_norm", "entropy/mean", "train/reference_kl"):
                    assert theirs[metric] == pytest.approx(ours[metric], abs=1e-4, rel=1e-4), (stage, metric)
            found = safetensors.torch.load(answer.payload)
            assert found.keys() == expected.keys()
            for layer in {key.rpartition(".lora_")[0] for key in expected}:
                a, b = (f"{layer}.lora_{letter}.weight" for letter in "AB")
                torch.testing.assert_close(found[b] @ found[a], expected[b] @ expected[a], atol=1e-4, rtol=0)
