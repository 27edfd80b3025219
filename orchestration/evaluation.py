"""Held-out evaluation: pass@1 and pass@k at T = 1, and greedy, at one pinned version of the weights.

pass@k of a task with n responses, c of them right, is 1 - C(n - c, k) / C(n, k), the unbiased estimate of Chen et al.
2021 (arXiv:2107.03374, grade K); the reported number is the mean over tasks.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orchestration.buffer import verify_requests
from orchestration.errors import OrchestrationError
from orchestration.services import RolloutService, VerifierService, whole_group
from orchestration.tasks.task import Task
from reward.messages import Status, Verdict
from rollout.draw.temperature import Fixed
from rollout.messages import GroupRequest, Rollout

BEFORE_TRAINING = -1  # priority: an evaluation holds back publication, so it goes before training groups
UNJUDGED = (Status.TIMEOUT, Status.RESOURCE)
FULL_MARKS = 1.0  # a response passes when its reward is full; partial credit is for training


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Chance that at least one of k responses drawn without replacement is right; needs k <= samples."""
    if k > samples:
        raise ValueError(f"pass@{k} needs at least {k} responses, got {samples}")
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One held-out response with its verdict."""

    task: Task
    rollout: Rollout
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """`metrics` by name; `sampled` has the T = 1 responses, `samples` for each task, `greedy` one for each."""

    metrics: dict[str, float]
    sampled: tuple[Judged, ...]
    greedy: tuple[Judged, ...]


async def evaluate(
    tasks: Sequence[Task],
    encode: Callable[[Task], tuple[int, ...]],
    workers: Sequence[RolloutService],
    verifier: VerifierService,
    *,
    samples: int,
    max_tokens: int,
    label: str,
) -> EvaluationResult:
    """Draw and judge the responses to `tasks`, spread over `workers`. `label` keeps request ids apart from others'.

    Raises WorkerFailure when a worker failed, OrchestrationError when a verdict could not be reached: an evaluation
    never counts our fault as a wrong answer.
    """

    async def run(number: int, task: Task, kind: str, n: int, temperature: float) -> list[Judged]:
        worker = workers[number % len(workers)]
        name = f"eval-{label}-{kind}-{number}"
        request = GroupRequest(
            group_id=name,
            prompt_ids=encode(task),
            n=n,
            max_tokens=max_tokens,
            temperature=Fixed(temperature=temperature),
            priority=BEFORE_TRAINING,
        )
        rollouts = await whole_group(worker.generate(request))
        verdicts = await verifier.verify(verify_requests(task, rollouts, name))
        return [
            Judged(task=task, rollout=rollout, verdict=verdict)
            for rollout, verdict in zip(rollouts, verdicts, strict=True)
        ]

    try:
        async with asyncio.TaskGroup() as running:
            sampled = [running.create_task(run(i, task, "t1", samples, 1.0)) for i, task in enumerate(tasks)]
            greedy = [running.create_task(run(i, task, "greedy", 1, 0.0)) for i, task in enumerate(tasks)]
    except ExceptionGroup as errors:  # the rest was cancelled, or failed for the same reason
        raise errors.exceptions[0] from errors
    by_task = [future.result() for future in sampled]
    greedy_judged = [judged for future in greedy for judged in future.result()]
    sampled_judged = [judged for task in by_task for judged in task]
    metrics = _metrics([[_passed(judged) for judged in task] for task in by_task], [_passed(j) for j in greedy_judged])
    metrics["eval/unjudged"] = _mean([judged.verdict.status in UNJUDGED for judged in sampled_judged + greedy_judged])
    return EvaluationResult(metrics=metrics, sampled=tuple(sampled_judged), greedy=tuple(greedy_judged))


def _passed(judged: Judged) -> bool:
    """Raises OrchestrationError for a fault of ours. A response that met a limit has not passed, whatever reward.drop
    says: without it a policy would look better for answers that nobody can judge.
    """
    if judged.verdict.status is Status.ERROR:
        raise OrchestrationError(
            f"the verifier could not judge a held-out response to task {judged.task.id}: {judged.verdict.detail}"
        )
    return judged.verdict.status not in UNJUDGED and judged.verdict.reward >= FULL_MARKS


def _metrics(sampled: list[list[bool]], greedy: list[bool]) -> dict[str, float]:
    samples = len(sampled[0])
    powers = [k for k in (1, 2, 4, 8, 16, 32, 64) if k <= samples]
    metrics = {f"eval/pass@{k}": _mean([pass_at_k(samples, sum(task), k) for task in sampled]) for k in powers}
    metrics["eval/greedy"] = _mean(greedy)
    return metrics


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
