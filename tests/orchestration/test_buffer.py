"""From verdicts to what is trained: who is left out, what shaping adds, and what is logged of both."""

import dataclasses
import math

import numpy as np
import pytest

from orchestration.buffer import Group, Rewards, batch_metrics, entropy_stats, train_batch, verify_requests
from orchestration.tasks.task import Task
from reward.config import RewardConfig
from reward.messages import Status, Verdict
from reward.shaping import OverlongPenalty
from rollout.messages import FinishReason, HeadActions, KeptTokens, Rollout, VersionSpan

TASK = Task(id="t", prompt="p", verifier="math", reference={"answer": "1"})
STATUSES = (Status.SCORED, Status.TIMEOUT, Status.RESOURCE, Status.MALFORMED, Status.ERROR)


def rollout(index: int, tokens: int) -> Rollout:
    ones = np.ones(tokens, np.float32)
    fields = {
        "group_id": "g",
        "index": index,
        "prompt_ids": (1,),
        "response_ids": ones.astype(np.int32),
        "sampler_logprobs": -ones,
        "temperatures": ones,
        "entropies": ones,
        "spans": (VersionSpan(version=0, start=0, end=tokens),),
        "text": "x",
        "finish_reason": FinishReason.STOP,
        "drafted_tokens": 0,
        "seconds": 0.0,
    }
    name = "accepted_histogram" if "accepted_histogram" in Rollout.__dataclass_fields__ else "accepted_tokens"
    return Rollout(**fields, **{name: () if name == "accepted_histogram" else 0})


def group(tokens: list[int], rewards: list[float], statuses=None) -> dict[int, Group]:
    statuses = statuses or [Status.SCORED] * len(tokens)
    verdicts = [Verdict(id="", reward=r, status=s) for r, s in zip(rewards, statuses, strict=True)]
    return {3: Group(TASK, [rollout(i, n) for i, n in enumerate(tokens)], verdicts)}


@pytest.mark.parametrize(
    ("drop", "trained"),
    [
        (("timeout", "resource", "error"), [0.7, 0.2]),
        (("error",), [0.7, 0.0, 0.0, 0.2]),
        (("timeout", "error"), [0.7, 0.0, 0.2]),
        (("timeout", "resource", "malformed", "error"), [0.7]),
    ],
)
def test_dropped_statuses_are_left_out_and_others_that_are_not_judged_count_as_0(drop, trained):
    """Scored 0.7, timeout 0.9, resource 0.9, malformed 0.2, error 0.9: only judged rewards are believed."""
    rewards = Rewards(config=RewardConfig(drop=tuple(map(Status, drop))), max_tokens=10)
    groups = group([2] * 5, [0.7, 0.9, 0.9, 0.2, 0.9], STATUSES)
    assert [sample.reward for sample in train_batch(0, groups, rewards).samples] == trained
    metrics = batch_metrics(groups, rewards)
    assert metrics["train/reward"] == pytest.approx(sum(trained) / len(trained))
    assert {metrics[f"reward/{status}_fraction"] for status in Status} == {0.2}, "counted apart, whatever is dropped"
    assert "train/shaped_reward" not in metrics


def test_shaping_changes_what_is_trained_and_not_what_is_logged_as_reward():
    """Lmax 10, Lc 4: 6 tokens are free, 8 cost half, 10 cost all, and the reward leaves [0, 1]."""
    shaping = {"overlong": OverlongPenalty(buffer_tokens=4), "twice": OverlongPenalty(buffer_tokens=4, factor=2.0)}
    rewards = Rewards(config=RewardConfig(shaping=shaping), max_tokens=10)
    groups = group([6, 8, 10], [1.0, 1.0, 0.5])
    assert [sample.reward for sample in train_batch(0, groups, rewards).samples] == pytest.approx([1.0, -0.5, -2.5])
    metrics = batch_metrics(groups, rewards)
    assert metrics["train/reward"] == pytest.approx(2.5 / 3)
    assert metrics["train/shaped_reward"] == pytest.approx(-2.0 / 3)


def test_a_step_without_any_judged_response_has_no_mean():
    """NaN, not 0: the status fractions say what happened."""
    metrics = batch_metrics(group([2], [0.0], [Status.TIMEOUT]), Rewards(config=RewardConfig(), max_tokens=10))
    assert math.isnan(metrics["train/reward"])


def test_the_responses_to_a_task_are_asked_about_as_one_group():
    """Equal group, ids of their own."""
    requests = verify_requests(TASK, [rollout(0, 2), rollout(1, 2)], "17")
    assert [(request.id, request.group, request.verifier) for request in requests] == [
        ("17/0", "17", "math"),
        ("17/1", "17", "math"),
    ]


def test_how_each_token_was_drawn_reaches_the_learner_as_it_was_recorded():
    """Kept tokens, the head's actions and whose draw it was are carried over."""
    groups = group([2, 1], [1.0, 0.0])
    groups[3].rollouts[0] = dataclasses.replace(
        groups[3].rollouts[0],
        policy_drawn=np.array([False, True]),
        kept=KeptTokens(ids=np.array([1, 4], np.int32), counts=np.array([0, 2], np.int32)),
        head=HeadActions(changes=np.array([True, False]), logprobs=np.array([-0.5, -0.1], np.float32)),
    )
    plain, told = train_batch(0, groups, Rewards(config=RewardConfig(), max_tokens=10)).samples[::-1]
    assert (plain.trained, plain.kept, plain.head) == (None, None, None)
    assert told.trained_places.tolist() == [1]
    assert (told.kept.ids.tolist(), told.kept.counts.tolist()) == ([1, 4], [0, 2])
    assert told.head.changes.tolist() == [True, False]
    assert told.head.logprobs.tolist() == pytest.approx([-0.5, -0.1])


def test_tokens_the_policy_did_not_draw_are_in_no_statistic():
    """Temperatures and entropies are those of the policy's draws; where it drew nothing there are none."""
    groups = group([3], [1.0])
    drawn = dataclasses.replace(
        groups[3].rollouts[0],
        policy_drawn=np.array([True, False, True]),
        temperatures=np.array([0.5, 0.0, 1.5], np.float32),
        entropies=np.array([1.0, np.nan, 2.0], np.float32),
        sampler_logprobs=np.array([-1.0, np.nan, -4.0], np.float32),
        kept=KeptTokens(ids=np.array([1, 1, 2], np.int32), counts=np.array([1, 0, 2], np.int32)),
    )
    rewards = Rewards(config=RewardConfig(), max_tokens=10)
    groups[3].rollouts[0] = drawn
    metrics = batch_metrics(groups, rewards)
    assert [metrics[f"temperature/{name}"] for name in ("mean", "min", "max")] == [1.0, 0.5, 1.5]
    assert metrics["rollout/cut_fraction"] == pytest.approx(2 / 3)
    stats = entropy_stats(train_batch(0, groups, rewards), None)
    assert (stats.mean, stats.drawn) == (1.5, 2.5)
    groups[3].rollouts[0] = dataclasses.replace(drawn, policy_drawn=np.zeros(3, bool))
    assert entropy_stats(train_batch(0, groups, rewards), None) is None
    assert math.isnan(batch_metrics(groups, rewards)["temperature/mean"])
