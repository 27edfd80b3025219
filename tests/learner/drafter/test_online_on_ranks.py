"""The online drafter on two ranks, at every ZeRO stage, through a checkpoint: what one process trains."""

import shutil

import pytest
import safetensors.torch
import torch
from transformers import AutoModelForCausalLM

from learner.config import LearnerConfig
from learner.drafter.files import PREFIX, add_drafter, tensors_of
from learner.drafter.layer import MtpLayer
from learner.drafter.online import OnlineDrafter
from tests.learner.adapters.conftest import OBJECTIVE
from tests.learner.test_ranks import STAGES, learned_alone_and_on_two_ranks

STEPS = 3
DRAFTER = OnlineDrafter(drafts=3, samples=7)


def config_of(ranks, stage) -> LearnerConfig:
    return LearnerConfig(
        lr=1e-3, ranks=ranks, zero_stage=stage, micro_batch_tokens=30, mismatch_kl_limit=1e9, drafter=DRAFTER
    )


@pytest.mark.slow
def test_two_ranks_train_the_drafter_that_one_trains(model_path, make_batch, truncated, new_port, tmp_path):
    """Loss, gradient norm and acceptance, and the layer that is published, though one rank has fewer to read."""
    model = tmp_path / "model"
    shutil.copytree(model_path, model)
    layer = MtpLayer.like_last_layer(AutoModelForCausalLM.from_pretrained(model))
    add_drafter(tensors_of(layer, torch.float32), model)
    batches = [truncated(make_batch(seed=step, step=step, rewards=[1, 0, 0, 1] * 4)) for step in range(STEPS)]
    metrics, payload, answers = learned_alone_and_on_two_ranks(model, OBJECTIVE, config_of, batches, tmp_path, new_port)
    expected = safetensors.torch.load(payload)
    for stage in STAGES:
        assert answers[0][stage].record == answers[1][stage].record
        for answer in (each[stage] for each in answers):
            for ours, theirs in zip(metrics, answer.metrics, strict=True):
                for metric in ("loss", "grad_norm", "acceptance_first", "acceptance_last", "kept_fraction"):
                    name = f"drafter/{metric}"
                    assert theirs[name] == pytest.approx(ours[name], abs=1e-4, rel=1e-3), (stage, metric)
            found = safetensors.torch.load(answer.payload)
            for name in (name for name in expected if name.startswith(PREFIX)):
                torch.testing.assert_close(found[name], expected[name], atol=1e-4, rtol=0)
