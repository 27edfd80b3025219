"""Rollouts and verdicts for tests of the journal: every field set, and distinct from response to response."""

import numpy as np

from reward.messages import Status, Verdict
from rollout.messages import FinishReason, HeadActions, KeptTokens, Rollout, VersionSpan


def rollout(index: int = 0, versions: tuple[int, ...] = (0, 0, 0), full: bool = False, group: str = "0.1") -> Rollout:
    """One token per entry of `versions`, which never fall. `full`: with every optional field."""
    count = len(versions)
    edges = [0, *(place for place in range(1, count) if versions[place] != versions[place - 1]), count]
    spans = zip(edges[:-1], edges[1:], strict=True)
    numbers = np.arange(count, dtype=np.float32) + index
    optional = {
        "policy_drawn": np.arange(count) % 2 == 0,
        "kept": KeptTokens(ids=np.arange(2 * count, dtype=np.int32), counts=np.full(count, 2, np.int32)),
        "head": HeadActions(changes=np.arange(count) % 2 == 1, logprobs=-numbers / 7),
        "stale_kv": True,
        "drafted_tokens": 9,
        "accepted_histogram": (1, 0, 4),
    }
    return Rollout(
        group_id=group,
        index=index,
        prompt_ids=(5, 6),
        response_ids=numbers.astype(np.int32) + 100,
        sampler_logprobs=-numbers / 3,
        temperatures=1 + numbers / 10,
        entropies=numbers / 9,
        spans=tuple(VersionSpan(version=versions[start], start=start, end=end) for start, end in spans),
        text=f"résponse {index}\0",
        finish_reason=FinishReason.STOP,
        seconds=0.5 + index,
        **({"drafted_tokens": 0, "accepted_histogram": ()} | (optional if full else {})),
    )


def verdict(reward: float = 1.0) -> Verdict:
    return Verdict(
        id="0/0", reward=reward, status=Status.SCORED, components={"compiles": 1.0}, detail="differs", seconds=0.1
    )
