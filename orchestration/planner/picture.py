"""plan.png: hours over GPUs, and what keeps each combination from being faster.

left: every combination, the ones that nothing beats in both joined by a line; right: how busy its two sides are
"""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from orchestration.monitor.curves import AMBER, CORAL, FAINT, STYLE, TEAL, VIOLET
from orchestration.planner.answer import Answer
from orchestration.planner.grid import cheapest, fastest

COLORS = (TEAL, CORAL, VIOLET, AMBER)  # by max_staleness, in rising order


def write_picture(found: Sequence[Answer], path: Path, *, title: str) -> None:
    """A PNG of about 1600 x 700 pixels."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11.4, 4.9), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
        figure.suptitle(title, x=0.012, ha="left", fontsize=14, fontweight="bold")
        hours, busy = figure.subplots(1, 2)
        _hours(hours, found)
        _busy(busy, found)
        figure.savefig(path, format="png", dpi=140, facecolor="white")


def _hours(axes: Axes, found: Sequence[Answer]) -> None:
    axes.set(title="Hours over GPUs", xlabel="GPUs, rollout and learner together", ylabel="hours for the whole run")
    frontier, least = [], float("inf")
    for answer in sorted(found, key=lambda answer: (answer.gpus, answer.hours)):
        if answer.hours < least:
            frontier.append(answer)
            least = answer.hours
    axes.plot([a.gpus for a in frontier], [a.hours for a in frontier], color=FAINT, linewidth=1, zorder=1)
    _points(axes, found, lambda answer: (answer.gpus, answer.hours))
    for name, answer in (("fastest", fastest(found)), ("cheapest", cheapest(found))):
        # The two are often one: then one name is above it and the other below.
        axes.annotate(
            f"{name}: {answer.workers} + {answer.ranks}",
            (answer.gpus, answer.hours),
            xytext=(6, 9 if name == "fastest" else -14),
            textcoords="offset points",
            fontsize=8.5,
        )
    axes.margins(x=0.16, y=0.14)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="best")


def _busy(axes: Axes, found: Sequence[Answer]) -> None:
    axes.set(title="How busy the two sides are", xlabel="rollout engines", ylabel="learner")
    _points(axes, found, lambda answer: (answer.rollout_utilisation, answer.learner_utilisation))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set(xlim=(-0.03, 1.05), ylim=(-0.03, 1.05))


def _points(axes: Axes, found: Sequence[Answer], place) -> None:
    for index, staleness in enumerate(sorted({answer.staleness for answer in found})):
        color = COLORS[index % len(COLORS)]
        for drafted in (False, True):
            chosen = [
                place(answer) for answer in found if answer.staleness == staleness and bool(answer.drafts) == drafted
            ]
            if chosen:
                axes.scatter(
                    *zip(*chosen, strict=True),
                    s=42,
                    marker="^" if drafted else "o",
                    color=color,
                    edgecolor="white",
                    zorder=2,
                    label=f"staleness {staleness}" + (", drafts" if drafted else ""),
                )
