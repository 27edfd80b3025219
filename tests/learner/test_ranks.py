"""Ranks and ZeRO stages change nothing: real processes on gloo learn what one process learns, through checkpoints."""

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from transformers import AutoModelForCausalLM

from learner.batch import shares, trained_part
from learner.config import LearnerConfig
from learner.messages import TrainBatch
from learner.objective import Objective
from learner.objective.advantage import GroupMean
from learner.objective.aggregate import TokenMean
from learner.objective.alignment import AlignRight
from learner.objective.filters import MixedGroupsOnly
from learner.objective.head import HeadTraining
from learner.objective.marks import Right
from learner.objective.regularisers import ReferenceKl
from learner.objective.surrogate import Anchored
from learner.objective.weights import LowToHigh, TruncatedImportance
from learner.worker import LearnerWorker
from rollout.draw.fit import Drawn
from rollout.draw.learned import Learned
from rollout.draw.truncation import TopW, Truncation
from tests.learner.rank_main import Answer, Job

ROOT = Path(__file__).parents[2]
OBJECTIVE = Objective(
    advantage=GroupMean(),
    surrogate=Anchored(eps_hi=0.28),
    aggregate=TokenMean(),
    marks={"right": Right()},
    weights={"mismatch": TruncatedImportance(), "attention": LowToHigh()},
    filters={"mixed": MixedGroupsOnly()},
    regularisers={"kl": ReferenceKl(coefficient=0.1), "align": AlignRight(coefficient=0.3)},
    head=HeadTraining(policy=Learned()),
)
STEPS = 4
MICRO_BATCH_TOKENS = 15
STAGES = (0, 1, 2, 3)
VARIANTS = {  # at ZeRO-3, where each has most to divide or to gather
    "recomputed": {"activation_checkpointing": True},
    "offloaded": {"offload_optimizer": True, "offload_parameters": True, "copy_checkpoints": False},
    "bfloat16": {"dtype": "bfloat16"},
}
DEADLINE_S = 300.0  # of all ranks together: some 15 s on an idle machine, most of it imports
LOOKED_AT = (
    "train/loss",
    "train/grad_norm",
    "train/reference_kl",
    "anchor/ratio",
    "attention/entropy",
    "regulariser/align",
    "align/right_cosine",
    "entropy/mean",
    "mismatch/kl",
    "head/loss",
    "head/grad_norm",
)


def run_ranks(
    world_size: int, jobs: dict[str, Job], folder: Path, port: int, exit_code: int = 0
) -> list[dict[str, Answer]]:
    """Start the processes, wait for all with a deadline, and return what those that ended well wrote.

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
            assert code == exit_code, log.read_text()[-3000:]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [pickle.loads(answer.read_bytes()) for answer in answers if exit_code == 0]


def learned_alone_and_on_two_ranks(
    model: Path,
    objective: Objective,
    config_of: Callable[[int, int], LearnerConfig],
    batches: Sequence[TrainBatch],
    folder: Path,
    new_port: Callable[[], int],
) -> tuple[list[dict[str, float]], bytes, list[dict[int, Answer]]]:
    """Metrics and payload of one process, and the answers of two ranks by ZeRO stage: the next one takes the last step.

    `config_of`: number of ranks, stage.
    """
    alone = LearnerWorker(model, config_of(1, 0), objective, 0, 1, "127.0.0.1", new_port(), 0, len(batches))
    metrics = [alone.train(batch).metrics for batch in batches]
    jobs = {
        stage: Job(
            model=model,
            config=config_of(2, stage),
            then=config_of(2, (stage + 1) % len(STAGES)),
            objective=objective,
            batches=batches,
            total_steps=len(batches),
            save_to=folder / str(stage),
        )
        for stage in STAGES
    }
    return metrics, alone.publish()[1].tobytes(), run_ranks(2, jobs, folder, new_port())


def config_of(world_size, stage, **changes) -> LearnerConfig:
    settings = {
        "lr": 1e-3,
        "ranks": world_size,
        "zero_stage": stage,
        "micro_batch_tokens": MICRO_BATCH_TOKENS,
        "mismatch_kl_limit": 1e9,
    }
    return LearnerConfig(**(settings | changes))


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
    tokens = [
        [sum(len(mine[i].trained_places) for share in micros if share.live for i in share.indices) for micros in plan]
        for mine, plan in zip(trained, plans, strict=True)
    ]
    assert all(first != second for first, second in tokens), "ranks have to train different numbers of tokens"
    return batches


@pytest.fixture(scope="module")
def responses(batches) -> list[Drawn]:
    """To be scored after the last step."""
    return [
        Drawn(
            prompt_ids=tuple(sample.prompt_ids.tolist()),
            response_ids=sample.response_ids,
            temperatures=sample.temperatures,
            truncation=truncation,
        )
        for truncation in (Truncation(top_p=0.9), TopW())
        for sample in batches[0].samples[:3]
    ]


@pytest.fixture(scope="module")
def start_alone(model_path, new_port):
    """(**changes) -> a learner of one rank, in this process, as `alone` is."""

    def start(**changes) -> LearnerWorker:
        config = config_of(1, 0, **changes)
        return LearnerWorker(model_path, config, OBJECTIVE, 0, 1, "127.0.0.1", new_port(), 0, STEPS)

    return start


@pytest.fixture(scope="module")
def alone(start_alone, batches, responses, tmp_path_factory):
    """What one process says, and its checkpoint before the last step."""
    worker = start_alone()
    metrics = [worker.train(batch).metrics for batch in batches[:-1]]
    checkpoint = tmp_path_factory.mktemp("alone")
    worker.save(checkpoint)
    metrics.append(worker.train(batches[-1]).metrics)
    record, payload = worker.publish()
    scores = worker.score(responses)[1]
    return Answer(metrics=metrics, record=record, payload=payload.tobytes(), scores=scores), checkpoint


@pytest.fixture(scope="module")
def together(tmp_path_factory, model_path, batches, responses, alone, new_port):
    """(what each of two ranks answers to every job, the jobs).

    A stage's last step is taken at the next stage, from its checkpoint; "of one rank" only takes the last step.
    """
    folder = tmp_path_factory.mktemp("ranks")
    common = {"model": model_path, "objective": OBJECTIVE, "total_steps": STEPS, "responses": responses}
    jobs = {
        str(stage): Job(
            config=config_of(2, stage),
            then=config_of(2, (stage + 1) % len(STAGES)),
            batches=batches,
            save_to=folder / f"checkpoint-{stage}",
            export=stage == 2,
            **common,
        )
        for stage in STAGES
    }
    jobs["of one rank"] = Job(
        config=config_of(2, 3),
        batches=batches[-1:],
        start_from=alone[1],
        save_to=folder / "checkpoint-again",
        export=True,
        **common,
    )
    return run_ranks(2, jobs, folder, new_port()), jobs


def check_metrics(found, expected, **tolerances) -> None:
    for ours, theirs in zip(expected, found, strict=True):
        for name in LOOKED_AT:
            assert theirs[name] == pytest.approx(ours[name], **tolerances), name


def check_weights(found: bytes, expected: bytes, atol: float) -> None:
    weights, exact = safetensors.torch.load(found), safetensors.torch.load(expected)
    assert weights.keys() == exact.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, exact[name], atol=atol, rtol=0)


@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_learn_what_one_learns(stage, alone, together):
    """At every ZeRO stage, and through a checkpoint that the next stage reads: losses, norms, weights and scores."""
    for answers in together[0]:
        answer = answers[str(stage)]
        check_metrics(answer.metrics, alone[0].metrics, abs=1e-4, rel=1e-4)
        check_weights(answer.payload, alone[0].payload, atol=1e-4)
        for ours, theirs in zip(alone[0].scores, answer.scores, strict=True):
            np.testing.assert_allclose(theirs.logprobs, ours.logprobs, atol=1e-3)
            np.testing.assert_allclose(theirs.entropies, ours.entropies, atol=1e-3)


@pytest.mark.parametrize("job", [*map(str, STAGES), "of one rank"])
def test_ranks_publish_the_same_bytes(job, together):
    """Whichever rank is asked, the weights and their checksum are the same."""
    first, second = (answers[job].record for answers in together[0])
    assert first == second


def test_two_ranks_go_on_from_the_checkpoint_of_one(alone, together):
    """Written at ZeRO-0, read at ZeRO-3: the next step is the one of the run that went on alone."""
    for answers in together[0]:
        answer = answers["of one rank"]
        check_metrics(answer.metrics, alone[0].metrics[-1:], abs=1e-5, rel=1e-5)
        check_weights(answer.payload, alone[0].payload, atol=1e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_one_rank_goes_on_from_the_checkpoint_of_two(stage, start_alone, batches, alone, together):
    """Written at any stage, read at ZeRO-0; the random numbers are those of the rank of that number."""
    worker = start_alone()
    worker.load(together[1][str(stage)].save_to)
    assert worker.version == STEPS - 1
    check_metrics([worker.train(batches[-1]).metrics], alone[0].metrics[-1:], abs=1e-4, rel=1e-4)
    check_weights(worker.publish()[1].tobytes(), alone[0].payload, atol=1e-4)


@pytest.mark.parametrize("job", ["2", "of one rank"])
def test_parameters_divided_at_zero_3_are_exported_whole(job, together):
    """The folder holds what was published, bit for bit."""
    jobs, answers = together[1], together[0][0]
    model = AutoModelForCausalLM.from_pretrained(jobs[job].save_to / "policy")
    expected = safetensors.torch.load(answers[job].payload)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


@pytest.fixture(scope="module")
def variants(tmp_path_factory, model_path, batches, new_port):
    """What each of two ranks answers, with each of the things that save memory."""
    folder = tmp_path_factory.mktemp("variants")
    common = {"model": model_path, "objective": OBJECTIVE, "total_steps": STEPS, "batches": batches}
    jobs = {
        name: Job(config=config_of(2, 3, **changes), save_to=folder / name, **common)
        for name, changes in VARIANTS.items()
    }
    return run_ranks(2, jobs, folder, new_port())


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["recomputed", "offloaded"])
def test_what_saves_memory_changes_nothing(variant, alone, variants):
    """Layers computed twice; or weights and moments in the host's memory, written to checkpoints from there."""
    for answers in variants:
        check_metrics(answers[variant].metrics, alone[0].metrics, abs=1e-4, rel=1e-4)
        check_weights(answers[variant].payload, alone[0].payload, atol=1e-4)


@pytest.mark.slow
def test_bfloat16_learns_as_float32_does(alone, variants):
    """Weights are rounded, and what is published has that type; losses stay near."""
    for answers in variants:
        for ours, theirs in zip(alone[0].metrics, answers["bfloat16"].metrics, strict=True):
            assert theirs["train/loss"] == pytest.approx(ours["train/loss"], abs=0.05)
            assert theirs["entropy/mean"] == pytest.approx(ours["entropy/mean"], rel=0.02)
        weights = safetensors.torch.load(answers["bfloat16"].payload)
        assert {one.dtype for name, one in weights.items() if "temper" not in name} == {torch.bfloat16}


@pytest.mark.slow
def test_a_run_goes_on_through_other_ranks_and_stages(start_alone, alone, batches, model_path, new_port, tmp_path):
    """Two ranks at ZeRO-2, one at ZeRO-0, two at ZeRO-3: the loss curve of a run that was never stopped, to 1e-5."""
    common = {"model": model_path, "objective": OBJECTIVE, "total_steps": STEPS}
    first = Job(config=config_of(2, 2), batches=batches[:2], save_to=tmp_path / "0", **common)
    second = Job(
        config=config_of(2, 3), batches=batches[3:], start_from=tmp_path / "2", save_to=tmp_path / "3", **common
    )
    metrics = run_ranks(2, {"first": first}, tmp_path, new_port())[0]["first"].metrics[:1]
    worker = start_alone()
    worker.load(tmp_path / "0")
    metrics += [worker.train(batch).metrics for batch in batches[1:3]]
    worker.save(tmp_path / "2")
    last = run_ranks(2, {"second": second}, tmp_path, new_port())[0]["second"]
    check_metrics(metrics + last.metrics, alone[0].metrics, abs=1e-5, rel=1e-5)
    check_weights(last.payload, alone[0].payload, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_every_stage_and_number_of_ranks_has_the_same_loss_curve(ranks, alone, batches, model_path, new_port, tmp_path):
    """Also with minibatches, in which later steps are taken by a policy that has moved."""
    jobs = {
        str(stage): Job(
            model=model_path,
            config=config_of(ranks, stage, minibatches=2),
            objective=OBJECTIVE,
            batches=batches,
            total_steps=STEPS,
            save_to=tmp_path / str(stage),
        )
        for stage in STAGES
    }
    answers = run_ranks(ranks, jobs, tmp_path, new_port())[0]
    for stage in STAGES[1:]:
        check_metrics(answers[str(stage)].metrics, answers["0"].metrics, abs=1e-4, rel=1e-4)
        check_weights(answers[str(stage)].payload, answers["0"].payload, atol=1e-4)
