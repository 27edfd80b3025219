"""What the loop keeps of each group between its admission and its training: task, rollouts, verdicts.

The scheduler sees ids only; the payloads wait here. `train_batch` turns the oldest scored groups into the learner's
input.

    verdict --status in reward.drop?--> left out
            --reward--> plus reward.shaping, from the length in tokens --> TrainSample.reward
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from learner.messages import HeadActions, KeptTokens, TrainBatch, TrainSample
from orchestration.feedback import Teach
from orchestration.tasks.task import Task
from reward.config import RewardConfig
from reward.messages import Status, Verdict, VerifyRequest
from rollout.draw.control import EntropyStats
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
    """One request per rollout, of one group, with ids that are unique under `prefix`."""
    return [
        VerifyRequest(
            id=f"{prefix}/{rollout.index}",
            verifier=task.verifier,
            response=rollout.text,
            reference=task.reference,
            group=prefix,
        )
        for rollout in rollouts
    ]


@dataclass(frozen=True, kw_only=True)
class Rewards:
    """From a verdict to what the learner is given. `max_tokens` is the longest response the task allows."""

    config: RewardConfig
    max_tokens: int

    def raw(self, verdict: Verdict) -> float | None:
        """In [0, 1]; None where the response is left out of its group."""
        return self.config.reward_of(verdict)

    def shaped(self, rollout: Rollout, verdict: Verdict) -> float | None:
        """The same with every piece of `reward.shaping` added, which may leave [0, 1]."""
        reward = self.raw(verdict)
        if reward is None:
            return None
        tokens = len(rollout.response_ids)
        return reward + sum(piece(tokens, self.max_tokens) for piece in self.config.shaping.values())


def train_batch(step: int, groups: dict[int, Group], rewards: Rewards, teach: Teach | None = None) -> TrainBatch:
    """The groups as the learner takes them. Responses whose verdict says nothing about them are left out.

    `teach` gives the prompt with feedback, for algorithms that want one.
    """
    samples = [
        _train_sample(
            number,
            rollout,
            reward=reward,
            unshaped=rewards.raw(verdict),
            teacher_prompt=teach(group.task, verdict) if teach else None,
        )
        for number, group in groups.items()
        for rollout, verdict in zip(group.rollouts, group.verdicts, strict=True)
        if (reward := rewards.shaped(rollout, verdict)) is not None
    ]
    return TrainBatch(step=step, samples=tuple(samples))


def _train_sample(
    group: int, rollout: Rollout, *, reward: float, unshaped: float, teacher_prompt: tuple[int, ...] | None
) -> TrainSample:
    """How every token was drawn, carried over as it was recorded."""
    return TrainSample(
        group=group,
        prompt_ids=np.asarray(rollout.prompt_ids, np.int32),
        response_ids=rollout.response_ids,
        sampler_logprobs=rollout.sampler_logprobs,
        temperatures=rollout.temperatures,
        entropies=rollout.entropies,
        versions=rollout.versions,
        reward=reward,
        unshaped=unshaped,
        trained=rollout.policy_drawn,
        kept=rollout.kept and KeptTokens(ids=rollout.kept.ids, counts=rollout.kept.counts),
        head=rollout.head and HeadActions(changes=rollout.head.changes, logprobs=rollout.head.logprobs),
        teacher_prompt_ids=None if teacher_prompt is None else np.asarray(teacher_prompt, np.int32),
    )


def entropy_stats(batch: TrainBatch, quantile: float | None) -> EntropyStats | None:
    """What the tokens the policy drew say to the temperature controller, over all responses the learner was given.

    None where it drew none: the controller then keeps its state.
    """
    drawn = [(sample, sample.trained_places) for sample in batch.samples]
    if not sum(len(places) for _, places in drawn):
        return None
    entropies = np.concatenate([sample.entropies[places] for sample, places in drawn])
    logprobs = np.concatenate([sample.sampler_logprobs[places] for sample, places in drawn])
    return EntropyStats.of(torch.from_numpy(entropies), torch.from_numpy(logprobs), quantile)


def batch_metrics(groups: dict[int, Group], rewards: Rewards) -> dict[str, float]:
    """What the rollouts and verdicts of one step look like, before any filter of the learner's.

    `train/reward` is the verifiers' own; `train/shaped_reward`, where there is shaping, what was trained.
    """
    rollouts = [rollout for group in groups.values() for rollout in group.rollouts]
    verdicts = [verdict for group in groups.values() for verdict in group.verdicts]
    raw = [rewards.raw(verdict) for verdict in verdicts]
    shaped = [rewards.shaped(*pair) for pair in zip(rollouts, verdicts, strict=True)]
    ours = [slice(None) if rollout.policy_drawn is None else rollout.policy_drawn for rollout in rollouts]
    temperatures = np.concatenate([rollout.temperatures[drawn] for rollout, drawn in zip(rollouts, ours, strict=True)])
    if not len(temperatures):  # the policy drew no token of this step
        temperatures = np.array([np.nan])
    cut = [rollout.kept.counts for rollout in rollouts if rollout.kept is not None]
    drafted = sum(rollout.drafted_tokens for rollout in rollouts)
    return {
        "train/reward": mean_of_kept(raw),
        **({"train/shaped_reward": mean_of_kept(shaped)} if rewards.config.shaping else {}),
        "temperature/mean": float(temperatures.mean()),
        "temperature/min": float(temperatures.min()),
        "temperature/max": float(temperatures.max()),
        "rollout/response_tokens": float(np.mean([len(rollout.response_ids) for rollout in rollouts])),
        **({"rollout/cut_fraction": float(np.mean(np.concatenate(cut) > 0))} if cut else {}),
        **({"rollout/acceptance_rate": sum(r.accepted_tokens for r in rollouts) / drafted} if drafted else {}),
        "rollout/truncated_fraction": float(np.mean([r.finish_reason is FinishReason.LENGTH for r in rollouts])),
        **{
            f"reward/{status}_fraction": float(np.mean([verdict.status is status for verdict in verdicts]))
            for status in Status
        },
    }


@dataclass
class Rejected:
    """Groups since the last step that another task took the place of: all their responses got the same reward."""

    rewards: list[float] = field(default_factory=list)  # one per group

    def metrics(self) -> dict[str, float]:
        """Of these groups; the next step starts counting anew."""
        rewards, self.rewards = self.rewards, []
        return {"rollout/rejected_groups": float(len(rewards)), "rollout/rejected_reward": mean_of_kept(rewards)}


def mean_of_kept(rewards: Sequence[float | None]) -> float:
    """NaN where all were left out."""
    kept = [reward for reward in rewards if reward is not None]
    return float(np.mean(kept)) if kept else float("nan")
