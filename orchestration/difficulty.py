"""Prompts with what a difficulty probe learns from: how the policy does on them, and what it looks like behind them.

    task --ten responses--> verdicts, entropies --> accuracy, mean entropy --.
         --prompt + announcement--> hidden state ----------------------------+--> Observed --> labels --> probe

Source of the setting: DiffAdapt, arXiv:2510.19669, grade A-code, pre-release tree (Dominic789654/Probe_new): ten
responses at T = 0.6 and top-p 0.95.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from orchestration.buffer import verify_requests
from orchestration.errors import OrchestrationError
from orchestration.evaluation import FULL_MARKS, UNJUDGED
from orchestration.services import RolloutService, VerifierService, whole_group
from orchestration.tasks.task import Task
from reward.messages import Status
from rollout.draw.temperature import Fixed
from rollout.draw.truncation import Truncation
from rollout.messages import GroupRequest

RESPONSES = 10  # a prompt
TEMPERATURE, TOP_P = 0.6, 0.95


class LookingWorker(RolloutService, Protocol):
    async def hidden_state(self, prompt_ids: tuple[int, ...]) -> np.ndarray: ...


@dataclass(frozen=True, kw_only=True)
class Observed:
    """One row a prompt. hidden [prompts, hidden size] float32; accuracies in [0, 1]; entropies: nats at T = 1, mean
    over all tokens of all its responses."""

    hidden: np.ndarray
    accuracies: np.ndarray
    entropies: np.ndarray


async def observe(
    tasks: Sequence[Task],
    encode: Callable[[Task], tuple[int, ...]],
    announcement: tuple[int, ...],
    worker: LookingWorker,
    verifier: VerifierService,
    max_tokens: int,
) -> Observed:
    """Raises WorkerFailure when a worker failed, OrchestrationError when a response could not be judged."""

    async def one(number: int, task: Task) -> tuple[np.ndarray, float, float]:
        name, prompt_ids = f"difficulty-{number}", encode(task)
        request = GroupRequest(
            group_id=name,
            prompt_ids=prompt_ids,
            n=RESPONSES,
            max_tokens=max_tokens,
            temperature=Fixed(temperature=TEMPERATURE),
            truncation=Truncation(top_p=TOP_P),
            priority=number,
        )
        rollouts = await whole_group(worker.generate(request))
        verdicts = await verifier.verify(verify_requests(task, rollouts, name))
        for verdict in verdicts:
            if verdict.status is Status.ERROR:
                raise OrchestrationError(f"the verifier could not judge a response to task {task.id}: {verdict.detail}")
        right = [verdict.status not in UNJUDGED and verdict.reward >= FULL_MARKS for verdict in verdicts]
        entropy = np.concatenate([rollout.entropies for rollout in rollouts]).mean(dtype=np.float64)
        return await worker.hidden_state((*prompt_ids, *announcement)), float(np.mean(right)), float(entropy)

    try:
        async with asyncio.TaskGroup() as running:
            found = [running.create_task(one(number, task)) for number, task in enumerate(tasks)]
    except ExceptionGroup as errors:  # the rest was cancelled, or failed for the same reason
        raise errors.exceptions[0] from errors
    hidden, accuracies, entropies = zip(*(task.result() for task in found), strict=True)
    return Observed(hidden=np.stack(hidden), accuracies=np.array(accuracies), entropies=np.array(entropies))
