"""Which runs `temper plan` simulates: the plan itself with other numbers of workers, ranks, versions and drafts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product

from orchestration.config import RunPlan
from orchestration.errors import ConfigError
from orchestration.pace import scheduler_config, worker_capacity
from orchestration.planner.answer import Answer, simulate
from orchestration.planner.rates import Rates
from orchestration.planner.simulation import Setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Combination:
    workers: int
    ranks: int
    staleness: int
    speculation: bool


def combinations(plan: RunPlan) -> list[Combination]:
    """What the section `plan` asks for, within its `gpus`. Raises ConfigError where nothing is left."""
    asked, workers, ranks, bound = plan.plan, plan.rollout.workers, plan.learner.ranks, plan.run.max_staleness
    drafts = plan.speculative.method != "none"
    if asked.speculation is not None and any(asked.speculation) and not drafts:
        raise ConfigError(
            "plan.speculation asks for speculation, and speculative.method=none drafts nothing: add speculative=mtp, or"
            " another of conf/speculative"
        )
    found = [
        Combination(workers=w, ranks=r, staleness=s, speculation=d)
        for w, r, s, d in product(
            sorted(set(asked.workers or (workers, 2 * workers, 4 * workers))),
            sorted(set(asked.ranks or (ranks, 2 * ranks))),
            sorted(set(asked.staleness if asked.staleness is not None else (0, bound, bound + 1))),
            sorted(set(asked.speculation if asked.speculation is not None else (False, drafts))),
        )
        if asked.gpus is None or w * plan.rollout.tensor_parallel + r <= asked.gpus
    ]
    if not found:
        raise ConfigError(
            f"no combination of plan.workers and plan.ranks fits into plan.gpus={asked.gpus}: raise it, or give smaller"
            " numbers"
        )
    return found


def checked_rates(rates: Rates) -> Rates:
    """Raises ConfigError for the first rate that is missing."""
    if rates.missing:
        raise ConfigError(
            f"plan.rates.{rates.missing} is not set: calibrate with from=<folder of a finished run>, take a file of"
            " conf/plan, or give the number"
        )
    return rates


def setting(plan: RunPlan, choice: Combination) -> Setting:
    """The simulated run of one combination. Raises ConfigError where the run itself would be refused."""
    plan = replace(plan, run=replace(plan.run, max_staleness=choice.staleness))
    if plan.run.publish_every > choice.staleness + 1:
        raise ConfigError(
            f"run.publish_every={plan.run.publish_every} needs a staleness of at least {plan.run.publish_every - 1}:"
            f" leave {choice.staleness} out of plan.staleness"
        )
    pacing = replace(scheduler_config(plan), total_steps=min(plan.plan.steps, plan.run.steps), eval_at_start=True)
    return Setting(
        pacing=pacing,
        rates=checked_rates(plan.plan.rates),
        workers=choice.workers,
        ranks=choice.ranks,
        group_size=plan.run.group_size,
        longest=plan.task.max_tokens,
        running=plan.rollout.max_num_seqs,
        capacity=worker_capacity(plan),
        drafts=plan.speculative.tokens if choice.speculation else 0,
        evaluated_tasks=plan.eval.tasks,
        evaluated_samples=plan.eval.samples,
        seed=plan.seed,
    )


def answers(plan: RunPlan, each: Callable[[], None] = lambda: None) -> list[Answer]:
    """All combinations simulated, one after the other; `each` is called after every one."""
    found = []
    for choice in combinations(plan):
        found.append(
            simulate(setting(plan, choice), total_steps=plan.run.steps, gpus_per_worker=plan.rollout.tensor_parallel)
        )
        each()
    return found


def fastest(found: Sequence[Answer]) -> Answer:
    """The fewest hours; among those within 2 % of it, the fewest GPU-hours, and then the least staleness."""
    least = min(answer.hours for answer in found)
    return min(
        (answer for answer in found if answer.hours <= 1.02 * least),
        key=lambda answer: (answer.gpu_hours, answer.staleness, answer.drafts),
    )


def cheapest(found: Sequence[Answer]) -> Answer:
    """The fewest GPU-hours; among those within 2 % of it, the fewest hours, and then the least staleness."""
    least = min(answer.gpu_hours for answer in found)
    return min(
        (answer for answer in found if answer.gpu_hours <= 1.02 * least),
        key=lambda answer: (answer.hours, answer.staleness, answer.drafts),
    )
