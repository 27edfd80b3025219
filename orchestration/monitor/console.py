"""What a person sees while the run goes: a live panel on a terminal, one plain line per step anywhere else.

quickstart  ━━━━━━━━━━━━━━━━━━━━━╸━━━━━━━━━━  34/60  0:00:41  ETA 0:00:31
  reward     0.781 ▁▁▂▃▄▅▆▇     entropy       0.092 nats ▇▆▅▃▂▁     rollout   5,210 tokens/s
  pass@1     0.861 at step 30   staleness     1                     learner   8,110 tokens/s
  greedy     0.910              mismatch KL   2.1e-09               step      0.98 s
"""

import time
from collections import deque
from collections.abc import Mapping
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

HISTORY = 24  # values of a sparkline
_BARS = "▁▂▃▄▅▆▇█"


class ConsoleView(Protocol):
    """Shows the newest metrics; `say` adds a line that stays."""

    def update(self, latest: Mapping[str, float], *, trained: bool) -> None:
        """`latest` holds the newest value of every metric so far; `trained` tells a step from an evaluation."""

    def say(self, text: str, style: str = "") -> None: ...

    def close(self) -> None: ...


class NoConsole:
    def update(self, latest: Mapping[str, float], *, trained: bool) -> None:
        pass

    def say(self, text: str, style: str = "") -> None:
        pass

    def close(self) -> None:
        pass


class PlainLines:
    """One line per step and per evaluation, for logs and pipes."""

    def __init__(self, console: Console, *, total_steps: int) -> None:
        self._console = console
        self._pace = Pace(total_steps)

    def update(self, latest: Mapping[str, float], *, trained: bool) -> None:
        parts = [f"step {int(latest['step'])}/{self._pace.total_steps}", f"{latest['time/elapsed_s']:.1f} s"]
        if not trained:
            names = sorted(name for name in latest if name.startswith("eval/"))
            parts += [f"{name} {latest[name]:.3f}" for name in names]
        else:
            self._pace.stepped(latest["step"])
            for label, name, show in _PLAIN:
                if name in latest:
                    parts.append(f"{label} {show(latest[name])}")
            if self._pace.step_s:
                parts.append(f"{self._pace.step_s:.2f} s/step")
                parts.append(f"ETA {_clock(self._pace.remaining_s)}")
        self.say("  ".join(parts))

    def say(self, text: str, style: str = "") -> None:
        self._console.print(Text(text, style=style), soft_wrap=True)

    def close(self) -> None:
        pass


class LivePanel:
    """A progress bar with the newest numbers under it, redrawn in place."""

    def __init__(self, console: Console, *, title: str, total_steps: int) -> None:
        self._pace = Pace(total_steps)
        self._latest: dict[str, float] = {}
        self._evaluated_at: int | None = None
        self._history: dict[str, deque[float]] = {}
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=40, complete_style="cyan", finished_style="green"),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("[cyan]ETA {task.fields[eta]}"),
            console=console,
        )
        self._task = self._progress.add_task(title, total=total_steps, eta="-:--:--")
        self._live = Live(self._picture(), console=console, refresh_per_second=4)
        self._live.start()

    def update(self, latest: Mapping[str, float], *, trained: bool) -> None:
        self._latest = dict(latest)
        if trained:
            self._pace.stepped(latest["step"])
            for name in ("train/reward", "entropy/mean"):
                if name in latest:
                    self._history.setdefault(name, deque(maxlen=HISTORY)).append(latest[name])
            self._progress.update(self._task, completed=latest["step"], eta=_clock(self._pace.remaining_s))
        else:
            self._evaluated_at = int(latest["step"])
        self._live.update(self._picture())

    def say(self, text: str, style: str = "") -> None:
        self._live.console.print(Text(text, style=style))

    def close(self) -> None:
        self._live.stop()

    def _picture(self) -> Group:
        table = Table.grid(padding=(0, 1))
        for column in range(3):
            table.add_column(style="dim")
            table.add_column(justify="right")
            table.add_column(min_width=12 if column < 2 else 0, style="cyan")
        evaluated = "" if self._evaluated_at is None else f"at step {self._evaluated_at}"
        step = f"{self._pace.step_s:.2f} s" if self._pace.step_s else "-"
        table.add_row(
            *("reward", self._value("train/reward", _share), self._sparkline("train/reward")),
            *("entropy", self._value("entropy/mean", _share), self._sparkline("entropy/mean")),
            *("rollout", self._value("rollout/tokens_per_s", _count), "tokens/s"),
        )
        table.add_row(
            *("pass@1", self._value("eval/pass@1", _share), evaluated),
            *("staleness", self._value("staleness/max", _whole), ""),
            *("learner", self._value("learner/tokens_per_s", _count), "tokens/s"),
        )
        table.add_row(
            *("greedy", self._value("eval/greedy", _share), ""),
            *("mismatch KL", self._value("mismatch/kl", _small), ""),
            *("step", step, ""),
        )
        return Group(self._progress, Padding(table, (0, 2)))

    def _value(self, name: str, show) -> str:
        return show(self._latest[name]) if name in self._latest else "-"

    def _sparkline(self, name: str) -> str:
        return sparkline(list(self._history.get(name, ())))


class Pace:
    """How long a step takes, from the last ten, and what that means for the rest. Seconds."""

    def __init__(self, total_steps: int) -> None:
        self.total_steps = total_steps
        self._seen: deque[tuple[float, float]] = deque(maxlen=11)

    def stepped(self, step: float) -> None:
        self._seen.append((step, time.monotonic()))

    @property
    def step_s(self) -> float:
        """0 before two steps were seen."""
        if len(self._seen) < 2:
            return 0.0
        (first, start), (last, end) = self._seen[0], self._seen[-1]
        return (end - start) / max(last - first, 1)

    @property
    def remaining_s(self) -> float | None:
        return (self.total_steps - self._seen[-1][0]) * self.step_s if self.step_s else None


def sparkline(values: list[float]) -> str:
    """One character per value, its height between the lowest and the highest of them; a blank for not-a-number."""
    finite = [value for value in values if value == value]
    if not finite:
        return ""
    low, span = min(finite), max(finite) - min(finite)
    heights = [" " if value != value else _BARS[round((value - low) / span * 7) if span else 0] for value in values]
    return "".join(heights)


def _share(value: float) -> str:
    return f"{value:.3f}"


def _whole(value: float) -> str:
    return f"{value:.0f}"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _small(value: float) -> str:
    return f"{value:.1e}"


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "-:--:--"
    return f"{int(seconds // 3600)}:{int(seconds % 3600 // 60):02d}:{int(seconds % 60):02d}"


_PLAIN = (
    ("reward", "train/reward", _share),
    ("pass@1", "eval/pass@1", _share),
    ("entropy", "entropy/mean", _share),
    ("T", "temperature/mean", lambda value: f"{value:.2f}"),
    ("staleness", "staleness/max", _whole),
    ("KL", "mismatch/kl", _small),
    ("tokens/s", "rollout/tokens_per_s", _count),
)
