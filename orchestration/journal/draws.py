"""Rollouts and verdicts as rows of the journal, and back: what comes out equals what went in, bit for bit."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from orchestration.journal.schema import BOOL, FLOAT, INT
from reward.messages import Status, Verdict
from rollout.messages import FinishReason, HeadActions, KeptTokens, Rollout, VersionSpan

ROLLOUT_COLUMNS = (
    *("task_index", "sample", "text", "finish_reason", "spans", "response_ids", "sampler_logprobs", "temperatures"),
    *("entropies", "policy_drawn", "kept_ids", "kept_counts", "head_changes", "head_logprobs", "stale_kv"),
    *("drafted_tokens", "accepted_histogram", "seconds"),
)
VERDICT_COLUMNS = ("task_index", "sample", "id", "reward", "status", "components", "detail", "seconds")

to_json = json.JSONEncoder(
    default=float
).encode  # `default` is for numpy's numbers; json.dumps would build it each time


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """All responses to a task, in the order of their indices; `verdicts` is empty until they are judged."""

    oldest_version: int
    rollouts: tuple[Rollout, ...]
    verdicts: tuple[Verdict, ...]


def rollout_row(task_index: int, rollout: Rollout) -> tuple[Any, ...]:
    kept, head = rollout.kept, rollout.head
    return (
        task_index,
        rollout.index,
        storable(rollout.text),
        str(rollout.finish_reason),
        to_json([(span.version, span.start, span.end) for span in rollout.spans]),
        blob(rollout.response_ids, INT),
        blob(rollout.sampler_logprobs, FLOAT),
        blob(rollout.temperatures, FLOAT),
        blob(rollout.entropies, FLOAT),
        None if rollout.policy_drawn is None else blob(rollout.policy_drawn, BOOL),
        None if kept is None else blob(kept.ids, INT),
        None if kept is None else blob(kept.counts, INT),
        None if head is None else blob(head.changes, BOOL),
        None if head is None else blob(head.logprobs, FLOAT),
        rollout.stale_kv,
        rollout.drafted_tokens,
        to_json(rollout.accepted_histogram),
        rollout.seconds,
    )


def rollout_of(row: Sequence[Any], group_id: str, prompt_ids: tuple[int, ...]) -> Rollout:
    """The inverse; `row` has ROLLOUT_COLUMNS."""
    found = dict(zip(ROLLOUT_COLUMNS, row, strict=True))

    def arrays(name: str, dtype: str) -> np.ndarray | None:
        return None if found[name] is None else array(found[name], dtype)

    kept_ids, head_changes = arrays("kept_ids", INT), arrays("head_changes", BOOL)
    return Rollout(
        group_id=group_id,
        index=found["sample"],
        prompt_ids=prompt_ids,
        response_ids=arrays("response_ids", INT),
        sampler_logprobs=arrays("sampler_logprobs", FLOAT),
        temperatures=arrays("temperatures", FLOAT),
        entropies=arrays("entropies", FLOAT),
        spans=tuple(VersionSpan(version=one, start=start, end=end) for one, start, end in json.loads(found["spans"])),
        text=found["text"],
        finish_reason=FinishReason(found["finish_reason"]),
        drafted_tokens=found["drafted_tokens"],
        accepted_histogram=tuple(json.loads(found["accepted_histogram"])),
        seconds=found["seconds"],
        policy_drawn=arrays("policy_drawn", BOOL),
        kept=None if kept_ids is None else KeptTokens(ids=kept_ids, counts=arrays("kept_counts", INT)),
        head=None
        if head_changes is None
        else HeadActions(changes=head_changes, logprobs=arrays("head_logprobs", FLOAT)),
        stale_kv=bool(found["stale_kv"]),
    )


def verdict_row(task_index: int, sample: int, verdict: Verdict) -> tuple[Any, ...]:
    return (
        task_index,
        sample,
        verdict.id,
        float(verdict.reward),
        str(verdict.status),
        to_json(dict(verdict.components)),
        storable(verdict.detail),
        verdict.seconds,
    )


def verdict_of(row: Sequence[Any]) -> Verdict:
    """The inverse; `row` has VERDICT_COLUMNS."""
    _, _, name, reward, status, components, detail, seconds = row
    return Verdict(
        id=name,
        reward=reward,
        status=Status(status),
        components=json.loads(components),
        detail=detail,
        seconds=seconds,
    )


def blob(values: np.ndarray, dtype: str) -> bytes:
    return np.ascontiguousarray(values, dtype).tobytes()


def array(data: bytes, dtype: str) -> np.ndarray:
    """A copy, because torch wants arrays that it could write to."""
    return np.frombuffer(data, dtype).astype(np.dtype(dtype).newbyteorder("="))


def storable(text: str) -> str:
    """`text` itself but for half characters, which no database takes: they become question marks."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="replace").decode()
    return text
