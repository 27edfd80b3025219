import os
import pickle
import subprocess
import sys
import time
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
from learner.objective.head import HeadTraining
from learner.objective.surrogate import Clipped
from learner.objective.weights import TruncatedImportance
from learner.worker import LearnerWorker
from rollout.draw.learned import Learned

ROOT = Path(__file__).parents[2]
OBJECTIVE = Objective(
    advantage=GroupMean(),
    surrogate=Clipped(eps_hi=0.28),
    aggregate=TokenMean(),
    weights={"mismatch": TruncatedImportance()},
    filters={"mixed": MixedGroupsOnly()},
    head=HeadTraining(policy=Learned()),
)
STEPS = 4
MICRO_BATCH_TOKENS = 15
STAGES = (0, 1, 2, 3)
DEADLINE_S = 200.0  # of all ranks together: some 15 s on an idle machine, most of it imports


def run_ranks(world_size, jobs, folder, port) -> list[dict]:
    """Start the processes, wait for all with a deadline, and return what each wrote.

    What they print goes to files: a rank that fills a pipe nobody reads yet would wait, and the others for it.
    """
    given = folder / "given.pkl"
    given.write_bytes(pickle.dumps(jobs))
    answers = [folder / f"answer-{rank}.pkl" for rank in range(world_size)]
    logs = [folder / f"log-{rank}.txt" for rank in range(world_size)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    processes = []
    for rank, (answer, log) in enumerate(zip(answers, logs, strict=True)):
        arguments = map(str, (rank, world_size, port, given, answer))
        command = [sys.executable, ROOT / "tests/learner/rank_main.py", *arguments]
        with log.open("wb") as output:
            processes.append(subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT))
    deadline = time.monotonic() + DEADLINE_S
    try:
        for process, log in zip(processes, logs, strict=True):
            code = process.wait(timeout=deadline - time.monotonic())
            assert code == 0, log.read_text()[-3000:]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [pickle.loads(answer.read_bytes()) for answer in answers]


def config_of(world_size, stage) -> LearnerConfig:
    return LearnerConfig(
        lr=1e-3,
        ranks=world_size,
        zero_stage=stage,
        micro_batch_tokens=MICRO_BATCH_TOKENS,
        mismatch_kl_limit=1e9,
    )


@pytest.fixture(scope="module")
def batches(make_batch, truncated, with_context, with_actions):
    """Of the last two, some tokens were cut and some are not the policy's. All have actions of a temperature head."""
    batches = [make_batch(seed=step, step=step) for step in range(STEPS)]
    batches[2:] = [with_context(truncated(make_batch(seed=step, step=step, groups=8))) for step in (2, 3)]
    batches = [with_actions(batch) for batch in batches]
    trained = [trained_part(batch, OBJECTIVE).samples for batch in batches]
    plans = [shares(samples, 2, MICRO_BATCH_TOKENS) for samples in trained]
    assert any(len(micros) > 2 for plan in plans for micros in plan)
    assert any(not share.live for plan in plans for micros in plan for share in micros), "one rank has to idle once"
    return batches


@pytest.fixture(scope="module")
def alone(model_path, batches, new_port):
    """(metrics of each step, weights after them) of one process, this one."""
    worker = LearnerWorker(model_path, config_of(1, 0), OBJECTIVE, 0, 1, "127.0.0.1", new_port(), 0, STEPS)
    metrics = [worker.train(batch).metrics for batch in batches]
    return metrics, safetensors.torch.load(worker.publish()[1].tobytes())


@pytest.fixture(scope="module")
def together(tmp_path_factory, model_path, batches, new_port):
    """{stage: what each of two ranks says}, trained on the same batches."""
    folder = tmp_path_factory.mktemp("ranks")
    jobs = {
        stage: (model_path, config_of(2, stage), OBJECTIVE, batches, folder / f"checkpoint-{stage}") for stage in STAGES
    }
    answers = run_ranks(2, jobs, folder, new_port())
    return {stage: [answer[stage] for answer in answers] for stage in STAGES}


@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_learn_what_one_learns(stage, alone, together):
    """At every ZeRO stage, and through a checkpoint, losses, gradient norms and weights are those of one process."""
    metrics, expected = alone
    for their_metrics, _, their_payload in together[stage]:
        for step in range(STEPS):
            for name in ("train/loss", "train/grad_norm", "entropy/mean", "mismatch/kl", "head/loss", "head/grad_norm"):
                assert their_metrics[step][name] == pytest.approx(metrics[step][name], abs=1e-4, rel=1e-4), name
        weights = safetensors.torch.load(their_payload)
        assert weights.keys() == expected.keys()
        for name, tensor in weights.items():
            torch.testing.assert_close(tensor, expected[name], atol=1e-4, rtol=0)


@pytest.mark.parametrize("stage", STAGES)
def test_ranks_publish_the_same_bytes(stage, together):
    """Whichever rank is asked, the weights and their checksum are the same."""
    first, second = (answer[1] for answer in together[stage])
    assert first == second
