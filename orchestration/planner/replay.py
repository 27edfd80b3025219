"""How long each thing took in a finished run: its journal's events, told once more to the scheduler.

    journal.sqlite --events with their times--> Scheduler --actions, at the time of the event that caused them--> Spans

The journal holds no start of a step or a publication, and needs none: the scheduler is deterministic, so the same
events give the same actions, and the loop starts an action as soon as it is asked for.
"""

import json
import sqlite3
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from orchestration import actions, events
from orchestration.actions import Action
from orchestration.errors import ConfigError, SchedulerError
from orchestration.events import Event
from orchestration.scheduler import Scheduler
from orchestration.scheduler_config import SchedulerConfig

Span = tuple[float, float]  # seconds: start, end


@dataclass(kw_only=True)
class Spans:
    """Start and end of everything that came to an end, in order of the ends. Seconds of one clock."""

    groups: list[Span] = field(default_factory=list)  # from the start to the arrival of the last response
    verdicts: list[Span] = field(default_factory=list)
    steps: list[Span] = field(default_factory=list)  # of the learner; the i-th leads from version i to i + 1
    publications: list[Span] = field(default_factory=list)
    evaluations: list[Span] = field(default_factory=list)
    checkpoints: list[Span] = field(default_factory=list)
    restarts: list[Span] = field(default_factory=list)  # from the loss of a worker until one has joined again
    worker_s: float = 0.0  # of all workers together, while they were there
    losses: int = 0
    rejections: int = 0  # of groups, among the verdicts


def read_events(journal: Path) -> list[tuple[float, Event]]:
    """(seconds, event) of the first start of a run, in order. Raises ConfigError where there are none."""
    if not journal.is_file():
        raise ConfigError(f"there is no {journal}: name the folder of a run that was made with this version of Temper")
    try:
        with sqlite3.connect(f"{journal.absolute().as_uri()}?mode=ro", uri=True) as database:
            rows = database.execute("SELECT time, kind, json FROM events WHERE lineage = 1 ORDER BY seq").fetchall()
    except sqlite3.Error as error:
        raise ConfigError(f"{journal} cannot be read ({error}): is it the journal of a run?") from error
    return [(time, getattr(events, kind)(**json.loads(fields))) for time, kind, fields in rows]


def replay(pacing: SchedulerConfig, told: Iterable[tuple[float, Event]]) -> Spans:
    """The spans of a run that was paced so. Raises ConfigError where the events do not fit."""
    scheduler, spans = Scheduler(pacing), Spans()
    started: dict[Hashable, float] = {}
    last = 0.0
    try:
        for time, event in told:
            _end(spans, started, event, time)
            for action in scheduler.handle(event):
                started[_asked(action)] = time
            last = time
    except SchedulerError as error:
        raise ConfigError(
            f"the journal does not fit the run's own configuration ({error}): calibrate from a run that was not changed"
            " and resumed"
        ) from error
    spans.worker_s += sum(last - since for key, since in started.items() if key[0] == "worker")
    return spans


def _asked(action: Action) -> tuple:
    match action:
        case actions.StartGroup(group=group, attempt=attempt):
            return "group", group, attempt
        case actions.ScoreGroup(group=group, attempt=attempt):
            return "verdicts", group, attempt
        case actions.Train(step=step):
            return "step", step + 1
        case actions.Publish(version=version):
            return "publication", version
        case actions.Evaluate(version=version):
            return "evaluation", version
        case actions.Checkpoint(version=version):
            return "checkpoint", version
        case _:
            return ("other",)


def _end(spans: Spans, started: dict[Hashable, float], event: Event, time: float) -> None:
    def ends(into: list[Span], *key: Hashable) -> None:
        if (since := started.pop(key, None)) is not None:
            into.append((since, time))

    match event:
        case events.GroupFinished(group=group, attempt=attempt):
            ends(spans.groups, "group", group, attempt)
        case events.VerdictsArrived(group=group, attempt=attempt) | events.GroupRejected(group=group, attempt=attempt):
            ends(spans.verdicts, "verdicts", group, attempt)
            spans.rejections += isinstance(event, events.GroupRejected)
        case events.StepTrained(version=version):
            ends(spans.steps, "step", version)
        case events.WeightsPublished(version=version):
            ends(spans.publications, "publication", version)
        case events.EvaluationFinished(version=version):
            ends(spans.evaluations, "evaluation", version)
        case events.CheckpointWritten(version=version):
            ends(spans.checkpoints, "checkpoint", version)
        case events.WorkerJoined(worker=worker):
            started["worker", worker] = time
            ends(spans.restarts, "restart")
        case events.WorkerLost(worker=worker):
            if (since := started.pop(("worker", worker), None)) is not None:
                spans.worker_s += time - since
                spans.losses += 1
                started["restart",] = time
