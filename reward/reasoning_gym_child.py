"""Inside a worker process: score an answer by the dataset's own rule."""

import functools
import math
from collections.abc import Callable

import reasoning_gym

score_function = functools.cache(reasoning_gym.get_score_answer_fn)


def judge(payload: dict) -> dict:
    """{"dataset", "entry", "answer"} -> {"score": in [0, 1], "detail": str}; status `error` for an unknown dataset."""
    try:
        score: Callable[..., float] = score_function(payload["dataset"])
    except ValueError as error:
        return {"status": "error", "detail": str(error)}
    given = float(score(payload["answer"], payload["entry"]))
    if not math.isfinite(given):
        return {"status": "error", "detail": f"{payload['dataset']} gives the score {given}"}
    return {"score": min(1.0, max(0.0, given)), "detail": f"score {given:g}"}
