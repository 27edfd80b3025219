"""What a difficulty probe learns from: drawn as the method says, judged, and looked at behind the announcement."""

import asyncio

import numpy as np
import pytest

from orchestration.difficulty import observe
from orchestration.errors import OrchestrationError
from orchestration.tasks.task import Task
from reward.messages import Status, Verdict
from rollout.draw.temperature import Fixed
from rollout.draw.truncation import Truncation
from rollout.messages import FinishReason, Rollout, VersionSpan

TASKS = [Task(id=f"t{i}", prompt=f"p{i}", verifier="exact", reference={}) for i in range(3)]
ANNOUNCEMENT = (7, 8)


class Worker:
    """Response i of task t has i + 1 tokens of entropy t; the hidden state is the prompt's ids."""

    name = "fake"

    def __init__(self):
        self.requests = []

    async def generate(self, request):
        self.requests.append(request)
        for i in range(request.n):
            ones = np.ones(i + 1, np.float32)
            yield Rollout(
                group_id=request.group_id,
                index=i,
                prompt_ids=request.prompt_ids,
                response_ids=ones.astype(np.int32),
                sampler_logprobs=-ones,
                temperatures=ones,
                entropies=ones * request.prompt_ids[0] + (i == 0),
                spans=(VersionSpan(version=0, start=0, end=i + 1),),
                text=str(i),
                finish_reason=FinishReason.STOP,
                drafted_tokens=0,
                accepted_histogram=(),
                seconds=0.0,
            )

    async def hidden_state(self, prompt_ids):
        return np.array(prompt_ids, np.float32)


class Verifier:
    """Of task t, the first 3 t + 1 responses are right."""

    def __init__(self, status=Status.SCORED):
        self.status = status

    async def verify(self, requests):
        task = int(requests[0].group.rpartition("-")[2])
        return [
            Verdict(id=one.id, reward=float(i <= 3 * task), status=self.status, detail="so")
            for i, one in enumerate(requests)
        ]


def observed(worker, verifier):
    encode = lambda task: (int(task.prompt[1:]), 5)  # noqa: E731
    return asyncio.run(observe(TASKS, encode, ANNOUNCEMENT, worker, verifier, max_tokens=16))


def test_one_row_a_prompt():
    """Accuracy of ten, entropy over all tokens (not over responses), hidden state behind prompt and announcement."""
    worker = Worker()
    found = observed(worker, Verifier())
    assert found.accuracies.tolist() == [0.1, 0.4, 0.7]
    assert found.entropies == pytest.approx([1 / 55, 1 + 1 / 55, 2 + 1 / 55])
    assert found.hidden.tolist() == [[0, 5, 7, 8], [1, 5, 7, 8], [2, 5, 7, 8]]
    for request in worker.requests:
        assert (request.n, request.temperature, request.truncation) == (
            10,
            Fixed(temperature=0.6),
            Truncation(top_p=0.95),
        )
        assert not request.trained


def test_a_fault_of_ours_is_no_wrong_answer():
    """A verifier that could not judge stops the labelling."""
    with pytest.raises(OrchestrationError, match="could not judge a response to task t0: so"):
        observed(Worker(), Verifier(Status.ERROR))
