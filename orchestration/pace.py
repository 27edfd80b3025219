"""From a plan to what the scheduler is told of it: the loop and the planner both ask here."""

import math

from orchestration.config import RunPlan
from orchestration.scheduler_config import SchedulerConfig


def scheduler_config(plan: RunPlan) -> SchedulerConfig:
    return SchedulerConfig(
        groups_per_step=plan.run.groups_per_step,
        total_steps=plan.run.steps,
        max_staleness=plan.run.max_staleness,
        publish_every=plan.run.publish_every,
        eval_every=plan.eval.every,
        eval_at_start=plan.eval.at_start,
        eval_at_end=plan.eval.at_end,
        checkpoint_every=plan.run.checkpoint_every,
        take_turns=plan.rollout.sleep,
        refills=plan.run.max_refills if plan.algorithm.refill else 0,
    )


def worker_capacity(plan: RunPlan) -> int:
    """Groups that a rollout worker takes at once: what it runs and as much again, so that its engine never waits for
    the next one; not more, because another worker may come to have room; and never more than may be in flight."""
    config = plan.rollout
    responses = config.max_num_seqs + max(config.max_num_seqs, config.max_queued_seqs)
    in_flight = (plan.run.max_staleness + 1) * plan.run.groups_per_step
    return min(math.ceil(responses / plan.run.group_size), in_flight)
