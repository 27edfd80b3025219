"""The start-up check of one rollout worker against the learner: draw, let the learner recompute, compare.

worker.generate (two settings in one batch) --> learner.score --> rollout/self_check.py: report, or SelfCheckError
"""

import asyncio
import time
from collections.abc import Sequence

from orchestration.services import LearnerService, RolloutService, whole_group
from rollout.draw.fit import Drawn
from rollout.draw.temperature import TemperaturePolicy
from rollout.draw.truncation import TopW, Truncation
from rollout.self_check import BUDGET_S, LEAST_TURNS, MOST_TURNS, SelfCheck, SelfCheckReport


async def self_check(
    worker: RolloutService,
    learner: LearnerService,
    *,
    prompts: Sequence[tuple[int, ...]],
    temperature: TemperaturePolicy,
    truncation: Truncation | TopW,
    dtype: str,
    max_model_len: int,
) -> SelfCheckReport | None:
    """None where the learner has moved on from the worker's weights, so that there is nothing to compare.

    Raises SelfCheckError where they disagree, and WorkerFailure.
    """
    check = SelfCheck(worker.name, prompts, temperature, truncation, dtype, max_model_len)
    began = time.monotonic()
    for turn in range(MOST_TURNS):
        if turn >= LEAST_TURNS and time.monotonic() - began > BUDGET_S:
            break
        requests = check.requests(turn)
        groups = await asyncio.gather(*(whole_group(worker.generate(request)) for request in requests.values()))
        drawn = [
            Drawn(
                prompt_ids=rollout.prompt_ids,
                response_ids=rollout.response_ids,
                temperatures=rollout.temperatures,
                truncation=request.truncation,
            )
            for request, rollouts in zip(requests.values(), groups, strict=True)
            for rollout in rollouts
        ]
        version, recomputed = await learner.score(drawn)
        if any(span.version != version for rollouts in groups for rollout in rollouts for span in rollout.spans):
            return None
        said = iter(recomputed)
        for setting, rollouts in zip(requests, groups, strict=True):
            check.add(setting, rollouts, [next(said) for _ in rollouts])
    return check.verdict()


def coarser(engine: str, learner: str) -> str:
    """The dtype that limits how well the two can agree."""
    return "bfloat16" if "bfloat16" in (engine, learner) else "float32"
