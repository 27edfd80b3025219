"""curves.png: the five pictures of a run, drawn from the rows of metrics.jsonl.

held-out success over seconds        the same over steps
entropy and temperature    staleness and mismatch KL    tokens per second
"""

import io
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from orchestration.monitor.metrics_log import Row, series

INK, FAINT, GRID = "#1f2933", "#7b8794", "#e4e7eb"
TEAL, CORAL, VIOLET, AMBER = "#0f8b8d", "#e4572e", "#6c4ab6", "#d99a1c"
SMOOTHING = 0.7  # of the exponential average behind the noisy training reward

STYLE = {
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": FAINT,
    "axes.titlecolor": INK,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.8,
    "lines.markeredgewidth": 0.8,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",  # text stays text: smaller, sharp, and searchable
    "svg.hashsalt": "temper",  # the same numbers give the same file
}


def write_curves(rows: list[Row], path: Path, *, title: str) -> None:
    """Draw all panels into a PNG of about 1700 x 1040 pixels."""
    with matplotlib.rc_context(STYLE):
        _figure(rows, title).savefig(path, format="png", dpi=140, facecolor="white")


def curves_svg(rows: list[Row]) -> str:
    """The same picture without its title, as an <svg> element to put into a page."""
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        _figure(rows, None).savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _figure(rows: list[Row], title: str | None) -> Figure:
    figure = Figure(figsize=(12.2, 7.4 if title else 7.1), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12, wspace=0.04)
    if title:
        figure.suptitle(title, x=0.012, ha="left", fontsize=14, fontweight="bold")
    upper, lower = figure.subfigures(2, 1, height_ratios=(1.25, 1))
    over_time, over_steps = upper.subplots(1, 2, sharey=True)
    _success(over_time, rows, over="time/elapsed_s")
    _success(over_steps, rows, over="step")
    over_time.legend(loc="lower right", ncols=2)
    entropy, staleness, throughput = lower.subplots(1, 3)
    _entropy(entropy, rows)
    _staleness(staleness, rows)
    _throughput(throughput, rows)
    for axes in (over_steps, entropy, staleness, throughput):
        axes.set_xlabel("training step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    return figure


def _success(axes: Axes, rows: list[Row], *, over: str) -> None:
    seconds = over == "time/elapsed_s"
    axes.set(title="Success over time" if seconds else "Success over steps", ylim=(-0.02, 1.02))
    axes.set_xlabel("seconds since the first rollout")
    where, reward = series(rows, "train/reward", over)
    axes.plot(where, reward, color=TEAL, alpha=0.22, linewidth=1)
    axes.plot(where, _smooth(reward), color=TEAL, alpha=0.75, label="training reward")
    for name, label, color, marker in (
        ("eval/pass@8", "held-out pass@8", AMBER, "^"),
        ("eval/greedy", "held-out greedy", VIOLET, "s"),
        ("eval/pass@1", "held-out pass@1", CORAL, "o"),
    ):
        where, values = series(rows, name, over)
        if not where:
            continue
        axes.plot(where, values, color=color, marker=marker, markersize=5.5, markeredgecolor="white", label=label)
    axes.margins(x=0.02)


def _entropy(axes: Axes, rows: list[Row]) -> None:
    axes.set(title="Entropy and temperature")
    steps, entropy = series(rows, "entropy/mean", "step")
    axes.plot(steps, entropy, color=VIOLET)
    axes.fill_between(steps, entropy, color=VIOLET, alpha=0.08, linewidth=0)
    axes.set_ylim(bottom=0)
    _label(axes, "entropy, nats", VIOLET)
    steps, temperature = series(rows, "temperature/mean", "step")
    if steps:
        right = _right_axis(axes, "temperature", AMBER)
        right.plot(steps, temperature, color=AMBER)
        # A constant temperature is a flat line in the middle, not noise blown up to full height.
        middle = (max(temperature) + min(temperature)) / 2
        half = max((max(temperature) - min(temperature)) * 0.6, 0.1)
        right.set_ylim(middle - half, middle + half)
        right.yaxis.set_major_locator(MaxNLocator(4))


def _staleness(axes: Axes, rows: list[Row]) -> None:
    axes.set(title="Staleness and mismatch")
    steps, staleness = series(rows, "staleness/max", "step")
    axes.step(steps, staleness, color=TEAL, where="mid")
    axes.fill_between(steps, staleness, step="mid", color=TEAL, alpha=0.1, linewidth=0)
    axes.set_ylim(0, max(staleness, default=0) + 1)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    _label(axes, "oldest token, versions", TEAL)
    steps, mismatch = series(rows, "mismatch/kl", "step")
    positive = [(step, value) for step, value in zip(steps, mismatch, strict=True) if value > 0]
    if positive:
        right = _right_axis(axes, "KL, nats", CORAL)
        right.semilogy(*zip(*positive, strict=True), color=CORAL, linewidth=1.3)


def _throughput(axes: Axes, rows: list[Row]) -> None:
    axes.set(title="Throughput", ylabel="tokens per second")
    for name, label, color in (
        ("rollout/tokens_per_s", "rollout", TEAL),
        ("learner/tokens_per_s", "learner", CORAL),
    ):
        steps, values = series(rows, name, "step")
        axes.plot(steps, values, color=color, label=label)
    axes.margins(x=0.02)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    axes.legend(loc="best")


def _label(axes: Axes, text: str, color: str) -> None:
    axes.set_ylabel(text, color=color)
    axes.margins(x=0.02)


def _right_axis(axes: Axes, text: str, color: str) -> Axes:
    right = axes.twinx()
    right.grid(visible=False)
    _label(right, text, color)
    return right


def _smooth(values: list[float]) -> list[float]:
    """Exponential average, started at the first value; not-a-number leaves it where it is."""
    smoothed: list[float] = []
    for value in values:
        last = smoothed[-1] if smoothed else value
        smoothed.append(last if value != value else SMOOTHING * last + (1 - SMOOTHING) * value)
    return smoothed
