"""What the loop keeps of each group between its admission and its training: task, rollouts, verdicts.

The scheduler sees ids only; the payloads wait here. `train_batch` turns the oldest scored groups into the learner's
input.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from learner.messages import TrainBatch, TrainSample
from orchestration.tasks.task import Task
from reward.messages import Status, Verdict, VerifyRequest
from rollout.messages import FinishReason, Rollout


@dataclass
class Group:
    """One admitted group. `rollouts` and `verdicts` are those of the present attempt, aligned by index."""

    task: Task
    rollouts: Sequence[Rollout] = ()
    verdicts: Sequence[Verdict] = field(default_factory=tuple)

    def requests(self, group: int) -> list[VerifyRequest]:
        return verify_requests(self.task, self.rollouts, str(group))


def verify_requests(task: Task, rollouts: Sequence[Rollout], prefix: str) -> list[VerifyRequest]:
    """One request per rollout, with ids that are unique under `prefix`."""
    return [
        VerifyRequest(
            id=f"{prefix}/{rollout.index}", verifier=task.verifier, response=rollout.text, reference=task.reference
        )
        for rollout in rollouts
    ]


def train_batch(step: int, groups: dict[int, Group]) -> TrainBatch:
    """The groups as the learner takes them. Responses whose verdict says nothing about them are left out."""
    samples = [
        TrainSample(
            group=number,
            prompt_ids=np.asarray(rollout.prompt_ids, np.int32),
            response_ids=rollout.response_ids,
            sampler_logprobs=rollout.sampler_logprobs,
            temperatures=rollout.temperatures,
            entropies=rollout.entropies,
            versions=rollout.versions,
            reward=verdict.reward,
        )
        for number, group in groups.items()
        for rollout, verdict in zip(group.rollouts, group.verdicts, strict=True)
        if verdict.trainable
    ]
    return TrainBatch(step=step, samples=tuple(samples))


def batch_metrics(groups: dict[int, Group]) -> dict[str, float]:
    """What the rollouts and verdicts of one step look like, before any filter of the learner's."""
    rollouts = [rollout for group in groups.values() for rollout in group.rollouts]
    verdicts = [verdict for group in groups.values() for verdict in group.verdicts]
    judged = [verdict.reward for verdict in verdicts if verdict.trainable]
    temperatures = np.concatenate([rollout.temperatures for rollout in rollouts])
    return {
        "train/reward": float(np.mean(judged)) if judged else float("nan"),
        "temperature/mean": float(temperatures.mean()),
        "temperature/min": float(temperatures.min()),
        "temperature/max": float(temperatures.max()),
        "rollout/response_tokens": float(np.mean([len(rollout.response_ids) for rollout in rollouts])),
        "rollout/truncated_fraction": float(np.mean([r.finish_reason is FinishReason.LENGTH for r in rollouts])),
        **{
            f"reward/{status}_fraction": float(np.mean([verdict.status is status for verdict in verdicts]))
            for status in Status
        },
    }
