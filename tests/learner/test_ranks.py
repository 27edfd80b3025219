import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from learner.batch import shares, trained_part
from learner.config import LearnerConfig
from learner.objective import Objective
from learner.objective.advantage import GroupMean
from learner.objective.aggregate import TokenMean
from learner.objective.filters import MixedGroupsOnly
from learner.objective.surrogate import Clipped
from learner.objective.weights import TruncatedImportance

ROOT = Path(__file__).parents[2]
OBJECTIVE = Objective(
    advantage=GroupMean(),
    surrogate=Clipped(eps_hi=0.28),
    aggregate=TokenMean(),
    weights={"mismatch": TruncatedImportance()},
    filters={"mixed": MixedGroupsOnly()},
)
STEPS = 4
MICRO_BATCH_TOKENS = 15
STAGES = (0, 1, 2, 3)


def run_ranks(world_size, jobs, folder, port) -> list[dict]:
    """Start the processes, wait for all with a deadline, and return what each wrote."""
    given = folder / "given.pkl"
    given.write_bytes(pickle.dumps(jobs))
    answers = [folder / f"answer-{rank}.pkl" for rank in range(world_size)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, ROOT / "tests/learner/rank_main.py", *map(str, (rank, world_size, port, given, answer))],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank, answer in enumerate(answers)
    ]
    try:
        for process in processes:
            output, _ = process.communicate(timeout=150)
            assert process.returncode == 0, output[-3000:]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [pickle.loads(answer.read_bytes()) for answer in answers]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, model_path, make_batch):
    """{(world size, stage): what each rank says}, all trained on the same batches."""
    batches = [make_batch(seed=step, step=step) for step in range(STEPS)]
    trained = [trained_part(batch, OBJECTIVE).samples for batch in batches]
    plans = [shares(samples, 2, MICRO_BATCH_TOKENS) for samples in trained]
    assert any(len(micros) > 2 for plan in plans for micros in plan)
    assert any(not share.live for plan in plans for micros in plan for share in micros), "one rank has to idle once"
    found = {}
    for world_size, port_seed in ((1, 0), (2, 1)):
        folder = tmp_path_factory.mktemp(f"ranks{world_size}")
        jobs = {
            stage: (
                model_path,
                LearnerConfig(
                    lr=1e-3,
                    ranks=world_size,
                    zero_stage=stage,
                    micro_batch_tokens=MICRO_BATCH_TOKENS,
                    mismatch_kl_limit=1e9,
                ),
                OBJECTIVE,
                batches,
                folder / f"checkpoint-{stage}" if world_size == 2 else None,
            )
            for stage in (STAGES if world_size == 2 else (0,))
        }
        answers = run_ranks(world_size, jobs, folder, 20_000 + os.getpid() % 20_000 + port_seed)
        for stage in jobs:
            found[world_size, stage] = [answer[stage] for answer in answers]
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_learn_what_one_learns(stage, runs):
    """At every ZeRO stage, and through a checkpoint, losses, gradient norms and weights are those of one process."""
    ((metrics, _, payload),) = runs[1, 0]
    expected = safetensors.torch.load(payload)
    for their_metrics, _, their_payload in runs[2, stage]:
        for step in range(STEPS):
            for name in ("train/loss", "train/grad_norm", "entropy/mean", "mismatch/kl", "mismatch/max_abs"):
                assert their_metrics[step][name] == pytest.approx(metrics[step][name], abs=1e-4, rel=1e-4), name
        weights = safetensors.torch.load(their_payload)
        assert weights.keys() == expected.keys()
        for name, tensor in weights.items():
            torch.testing.assert_close(tensor, expected[name], atol=1e-4, rtol=0)


@pytest.mark.parametrize("stage", STAGES)
def test_ranks_publish_the_same_bytes(stage, runs):
    """Whichever rank is asked, the weights and their checksum are the same."""
    first, second = (answer[1] for answer in runs[2, stage])
    assert first == second
