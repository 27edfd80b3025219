"""Held-out evaluation: the estimate of pass@k, and that our own faults never count as wrong answers."""

import asyncio
import itertools
from collections.abc import AsyncIterator

import numpy as np
import pytest

from orchestration.errors import OrchestrationError
from orchestration.evaluation import evaluate, pass_at_k
from orchestration.tasks.task import Task
from reward.messages import Status, Verdict
from rollout.messages import FinishReason, GroupRequest, Rollout, VersionSpan

TASKS = [Task(id=f"t{i}", prompt=f"p{i}", verifier="exact", reference={"answer": str(i)}) for i in range(3)]


def brute_force(samples: int, correct: int, k: int) -> float:
    """Share of all k-subsets of the responses that contain a right one."""
    right = [True] * correct + [False] * (samples - correct)
    subsets = list(itertools.combinations(right, k))
    return sum(any(subset) for subset in subsets) / len(subsets)


@pytest.mark.parametrize("samples", [1, 4, 6])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer(samples):
    """The closed form equals counting subsets, for every number of right answers and every k."""
    for correct in range(samples + 1):
        for k in range(1, samples + 1):
            assert pass_at_k(samples, correct, k) == pytest.approx(brute_force(samples, correct, k))


class Worker:
    """Answers with the sample's index; greedy requests with the task's own number."""

    name = "fake"

    def __init__(self):
        self.requests: list[GroupRequest] = []

    async def generate(self, request: GroupRequest) -> AsyncIterator[Rollout]:
        self.requests.append(request)
        greedy = request.temperature.temperature == 0
        for i in reversed(range(request.n)):
            yield rollout(request, i, str(request.prompt_ids[0] if greedy else i))


def rollout(request: GroupRequest, index: int, text: str) -> Rollout:
    one = np.ones(1, np.float32)
    return Rollout(
        group_id=request.group_id,
        index=index,
        prompt_ids=request.prompt_ids,
        response_ids=one.astype(np.int32),
        sampler_logprobs=-one,
        temperatures=one,
        entropies=one,
        spans=(VersionSpan(version=0, start=0, end=1),),
        text=text,
        finish_reason=FinishReason.STOP,
        drafted_tokens=0,
        accepted_histogram=(),
        seconds=0.0,
    )


class Verifier:
    def __init__(self, status: Status = Status.SCORED):
        self.status = status

    async def verify(self, requests):
        return [
            Verdict(
                id=request.id,
                reward=float(request.response == request.reference["answer"]),
                status=self.status,
                detail="because",
            )
            for request in requests
        ]


def run(workers, verifier, samples=4):
    return asyncio.run(
        evaluate(
            TASKS,
            lambda task: (int(task.id[1:]),),
            workers,
            verifier,
            samples=samples,
            max_tokens=5,
            label="0",
        )
    )


def test_one_right_answer_in_four():
    """Of four responses to each task one is right: pass@1 1/4, pass@2 1/2, pass@4 1, and greedy always."""
    workers = [Worker(), Worker()]
    metrics = run(workers, Verifier()).metrics
    assert metrics == pytest.approx(
        {"eval/pass@1": 0.25, "eval/pass@2": 0.5, "eval/pass@4": 1.0, "eval/greedy": 1.0, "eval/unjudged": 0.0}
    )
    assert all(worker.requests for worker in workers), "the tasks are spread over the workers"


def test_a_fault_of_ours_is_not_a_wrong_answer():
    """A verdict of status `error` stops the evaluation with the verifier's own words."""
    with pytest.raises(OrchestrationError, match="could not judge a held-out response to task t.: because"):
        run([Worker()], Verifier(Status.ERROR))


def test_a_timeout_does_not_pass():
    """A response that runs into the deadline has not passed, whatever reward it carries, and is counted apart."""
    metrics = run([Worker()], Verifier(Status.TIMEOUT)).metrics
    assert metrics["eval/pass@4"] == 0.0
    assert metrics["eval/unjudged"] == 1.0


def test_the_responses_to_a_task_are_one_group():
    """Verifiers that compare responses get those of one task, and of no other, under one name."""
    seen = []

    class Watching(Verifier):
        async def verify(self, requests):
            seen.append({request.group for request in requests})
            return await super().verify(requests)

    run([Worker()], Watching())
    assert all(len(groups) == 1 for groups in seen)
    assert len(set.union(*seen)) == len(seen) == 2 * len(TASKS)
