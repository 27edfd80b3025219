"""Monitor: what the run loop tells of training, evaluation and mishaps, spread to everything that shows or keeps it.

    record(step metrics)  --+--> metrics.jsonl  (first: what is on disk is the truth)
    evaluated(metrics)    --+--> console
    event(text)           --+--> W&B
    samples(...)          --+
    close()                 ---> curves.png and report.html  (from the files alone: `temper report` repeats it)

Values arrive reduced: the monitor shows and keeps, it computes nothing.
"""

import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from orchestration.monitor.console import ConsoleView, LivePanel, NoConsole, PlainLines
from orchestration.monitor.metrics_log import MetricsLog
from orchestration.monitor.sample import Sample, append_samples
from orchestration.monitor.wandb_log import WandbLog


@dataclass(frozen=True, kw_only=True)
class MonitorConfig:
    """Where the numbers of a run go, beside the files in its folder, which are always written.

    console   "live" panel, "plain" lines, "none"; "auto" is live on a terminal and plain elsewhere
    wandb     "offline", "disabled"; "auto" is online where WANDB_API_KEY is set and offline elsewhere
    project   of the W&B run
    """

    console: Literal["auto", "live", "plain", "none"] = "auto"
    wandb: Literal["auto", "offline", "disabled"] = "auto"
    project: str = "temper"


class Monitor:
    """One run's monitor. `folder` is the run folder, `title` names the run, `run_config` is the resolved config.

    A resumed run says at which step: later lines of the metrics belong to a past that never happened.
    """

    def __init__(
        self,
        config: MonitorConfig,
        *,
        folder: Path,
        title: str,
        total_steps: int,
        run_config: Mapping[str, Any],
        resumed_at: int | None = None,
    ) -> None:
        self._folder = folder
        self._latest: dict[str, float] = {}
        self._log = MetricsLog(folder / "metrics.jsonl", resumed_at=resumed_at)
        self.elapsed_before_s = self._log.elapsed_s  # of the part before a resume, 0 for a new run
        self._wandb = None
        if config.wandb != "disabled":
            online = config.wandb == "auto" and bool(os.environ.get("WANDB_API_KEY"))
            self._wandb = WandbLog(folder=folder, project=config.project, name=title, config=run_config, online=online)
        self._view = _view(config.console, title=title, total_steps=total_steps)
        if resumed_at is not None:
            self.event(f"resumed at step {resumed_at}")

    def record(self, metrics: Mapping[str, float]) -> None:
        """What one training step measured. Needs `step` and `time/elapsed_s`."""
        self._take(metrics, trained=True)

    def evaluated(self, metrics: Mapping[str, float]) -> None:
        """What one evaluation measured: `eval/...`, with the `step` and `policy_version` it belongs to."""
        self._take(metrics, trained=False)

    def samples(self, samples: Iterable[Sample]) -> None:
        """Keep responses for the report, which shows the earliest and the latest of each prompt side by side."""
        append_samples(self._folder / "samples.jsonl", samples)

    def event(self, text: str, *, problem: bool = False) -> None:
        """Something a person should know, in one line: a lost worker, a checkpoint, a resume."""
        with (self._folder / "events.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"at": time.strftime("%H:%M:%S"), "text": text, "problem": problem}) + "\n")
        self._view.say(text, style="bold red" if problem else "dim")

    def close(self) -> None:
        """Stop the console, finish W&B, then draw curves.png and report.html where anything was measured."""
        # Imported here: matplotlib takes half a second that the start of a run need not wait for.
        from orchestration.monitor.report import write_report

        self._log.close()
        self._view.close()
        if self._wandb is not None:
            self._wandb.close()
        if self._latest:
            self._view.say(f"report: {write_report(self._folder)}")

    def _take(self, metrics: Mapping[str, float], *, trained: bool) -> None:
        self._log.write(metrics)
        self._latest.update(metrics)
        # An evaluation may belong to an earlier step than the last one trained: it is shown under its own.
        shown = self._latest if trained else {**self._latest, **metrics}
        self._view.update(shown, trained=trained)
        if self._wandb is not None:
            self._wandb.write(metrics)


def _view(kind: str, *, title: str, total_steps: int) -> ConsoleView:
    console = Console()
    if kind == "auto":
        kind = "live" if console.is_terminal else "plain"
    if kind == "live":
        return LivePanel(console, title=title, total_steps=total_steps)
    return PlainLines(console, total_steps=total_steps) if kind == "plain" else NoConsole()
