"""What `temper plan` prints: one row per combination, and what they say in a sentence each."""

from collections.abc import Sequence

from rich.table import Table

from orchestration.planner.answer import Answer
from orchestration.planner.grid import cheapest, fastest

BUSY = 0.75  # a side that is busy for less of the time is not what the run waits for


def table(found: Sequence[Answer], *, steps: int) -> Table:
    """Marked are the fastest (bold green) and the cheapest combination."""
    quickest, thriftiest = fastest(found), cheapest(found)
    drafted = any(answer.drafts for answer in found)
    judged = any(answer.verifier_utilisation for answer in found)
    drawn = Table(
        title=f"{steps} steps, simulated",
        caption="* fastest, $ cheapest",
        title_justify="left",
        caption_justify="left",
        box=None,
        collapse_padding=True,
    )
    for name in (
        *("roll-\nouts", "lear-\nner", "max\nstale", *(["\ndrafts"] if drafted else []), "\nGPUs", "steps\n/hour"),
        *("tokens\n/s", "rollout\nbusy", "learner\nbusy", *(["judges\nbusy"] if judged else [])),
        *("mean\nage", "\nhours", "GPU-\nhours", ""),
    ):
        drawn.add_column(name, justify="right", no_wrap=True)
    for answer in found:
        marks = "*" * (answer is quickest) + "$" * (answer is thriftiest)
        drawn.add_row(
            *(str(answer.workers), str(answer.ranks), str(answer.staleness)),
            *([str(answer.drafts or "-")] if drafted else []),
            str(answer.gpus),
            f"{answer.steps_per_hour:,.4g}",
            f"{answer.tokens_per_s:,.0f}",
            f"{answer.rollout_utilisation:.0%}",
            f"{answer.learner_utilisation:.0%}",
            *([f"{answer.verifier_utilisation:.0%}"] if judged else []),
            f"{answer.mean_age:.1f}",
            _hours(answer.hours),
            _hours(answer.gpu_hours),
            marks,
            style="bold green" if answer is quickest else "green" if answer is thriftiest else "",
        )
    return drawn


def sentences(found: Sequence[Answer]) -> list[str]:
    """The answers: which is the fastest, which the cheapest, what staleness and speculation bring there."""
    best = fastest(found)
    said = [
        f"{name}: {_named(answer)}: {_hours(answer.hours)} hours, {_hours(answer.gpu_hours)} GPU-hours"
        for name, answer in (("fastest", best), ("cheapest", cheapest(found)))
    ]
    same = {
        (answer.staleness, answer.drafts): answer
        for answer in found
        if (answer.workers, answer.ranks) == (best.workers, best.ranks)
    }
    bounds = sorted({staleness for staleness, drafts in same if drafts == best.drafts})
    if len(bounds) > 1:
        pace = ", ".join(f"{bound}: {same[bound, best.drafts].steps_per_hour:,.4g}" for bound in bounds)
        said.append(f"steps per hour there by max_staleness: {pace}")
    drafts = max(answer.drafts for answer in found)
    if drafts and (best.staleness, 0) in same and (best.staleness, drafts) in same:
        gain = same[best.staleness, drafts].steps_per_hour / same[best.staleness, 0].steps_per_hour
        said.append(
            f"speculation {'pays' if gain > 1 else 'does not pay'} there: {gain:.2f} times the steps per hour with it"
        )
    said.append(_bottleneck(best))
    return said


def _bottleneck(best: Answer) -> str:
    sides = (
        (best.rollout_utilisation, "rollout engines", "more rollout.workers"),
        (best.learner_utilisation, "learner", "more learner.ranks"),
        (best.verifier_utilisation, "verifiers", "more reward.workers"),
    )
    busy, name, remedy = max(sides)
    if busy < BUSY:
        return (
            f"nobody is busy all the time (the {name} {busy:.0%}): more run.max_staleness would hide the latencies,"
            " fewer GPUs would cost less"
        )
    return f"what the run waits for is the {name}, busy {busy:.0%} of the time: {remedy} would help"


def _hours(hours: float) -> str:
    return f"{hours:,.1f}" if hours >= 10 else f"{hours:.2g}"


def _named(answer: Answer) -> str:
    drafts = f", {answer.drafts} drafts" if answer.drafts else ""
    return f"rollout.workers={answer.workers} learner.ranks={answer.ranks} run.max_staleness={answer.staleness}{drafts}"
