"""Rates as a finished run had them, from what it wrote: journal.sqlite, metrics.jsonl, config.yaml.

    decode table     the straight line through all engine steps that only drew (rollout/decode_...)
    turnover         what other engine steps took beyond that line, by the responses that began
    aside            what the engines' processes did while the engines were empty, likewise
    lengths          the groups in the journal, or, where it keeps none, the responses' mean in the metrics
    learner          durations of the steps over their response tokens
    verdicts         how long groups were with the verifiers, alone and behind others; the share that was rejected
    publication      weights/...: snapshot, transfer without the wait for a running engine step, pause
    all others       means of the spans that replay.py finds
    overhead         how much longer generation took, as the loop saw it, than the engines had something to decode

What a run does not show keeps its default: `acceptance`, `draft_cost`, `rank_efficiency`.
"""

import itertools
import math
import sqlite3
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields, replace
from operator import itemgetter
from statistics import fmean
from typing import Any

import numpy as np

from orchestration.config import RunPlan
from orchestration.errors import ConfigError
from orchestration.monitor.metrics_log import Row, read_metrics
from orchestration.pace import scheduler_config
from orchestration.planner.answer import steady
from orchestration.planner.rates import Lengths, Rates
from orchestration.planner.replay import Span, Spans, read_events, replay
from orchestration.planner.simulation import HOUR_S
from orchestration.run_folder import RunFolder

LEAST_STEPS = 4
WARM_UP = 2  # steps left out where enough are left, and no fewer than the simulation leaves out: caches fill
VARIED = 0.05  # standard deviation over mean from which a straight line can be drawn
FIXED_SHARE = 0.5  # of a decode step at the measured batch, where the run shows one batch only: assumed
INT32_BYTES = 4
FITTED_GROUPS = 4096  # of the verifiers' fit; more say the same
SERVICE_TIMES = 101  # tried


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """`rates` complete enough to simulate; `measured_steps_per_hour` is what the run itself did."""

    rates: Rates
    measured_steps_per_hour: float
    assumed: tuple[str, ...]  # sentences: what the run could not show


def calibrate(folder: RunFolder, plan: RunPlan) -> Calibration:
    """`plan` is the one that the run was made with. Raises ConfigError for a run too short or of another kind."""
    rows = [row for row in read_metrics(folder.root / "metrics.jsonl") if "train/reward" in row]
    spans = replay(scheduler_config(plan), read_events(folder.journal))
    steps = min(len(rows), len(spans.steps))
    if steps < LEAST_STEPS:
        raise ConfigError(
            f"{folder.root} shows {steps} training steps and a calibration needs at least {LEAST_STEPS}: make a longer"
            " run"
        )
    if plan.speculative.method != "none":
        kept = [row["rollout/acceptance_position_1"] for row in rows if "rollout/acceptance_position_1" in row]
        hint = f" and set plan.rates.acceptance={fmean(kept):.2f}, as measured here" if kept else ""
        raise ConfigError(
            f"{folder.root} drafts (speculative.method={plan.speculative.method}), and its counters do not tell"
            f" decoding from verification: calibrate from a run with speculative=none{hint}"
        )
    warm = -np.inf  # when the warm-up was over
    if len(rows) > 2 * WARM_UP:
        first, _ = steady(len(rows), plan.run.max_staleness)
        first = max(first, WARM_UP)
        rows, warm = rows[first:], spans.steps[first - 1][1]
    assumed: list[str] = []
    step_tokens = [_tokens(plan, row) for row in rows]
    learning = [spans.steps[int(row["step"]) - 1] for row in rows if int(row["step"]) <= len(spans.steps)]
    fixed_s, per_token_s = _line(step_tokens[: len(learning)], _seconds(learning), [1.0] * len(learning))
    ranks = plan.learner.ranks
    speed = Rates(learner_tokens_per_s=1.0).ranks_speed(ranks)
    measured: dict[str, Any] = {
        **_engine(rows, plan.rollout.max_num_seqs, assumed),
        "lengths": _lengths(folder, plan, rows, assumed),
        "learner_fixed_s": fixed_s,
        "learner_tokens_per_s": 1.0 / (max(per_token_s, 1e-12) * speed),
        "overhead_s": _overhead(spans, rows),
        **_verifiers([span for span in spans.verdicts if span[0] >= warm], plan.run.group_size),
        "rejected": spans.rejections / len(spans.verdicts),
    }
    if sent := [row for row in rows if "weights/paused_s" in row]:
        published = [span for span in spans.publications if span[0] >= warm]
        transfer_s = fmean(row["weights/transfer_s"] for row in sent)
        measured["snapshot_s"] = max(fmean(_seconds(published)) - transfer_s, 0.0)
        measured["transfer_s"] = max(transfer_s - fmean(row["weights/waited_s"] for row in sent), 0.0)
        measured["pause_s"] = fmean(row["weights/paused_s"] for row in sent)
    if spans.checkpoints:
        measured["checkpoint_s"] = fmean(_seconds(spans.checkpoints))
    if spans.losses:
        measured["hours_between_losses"] = spans.worker_s / spans.losses / HOUR_S
        measured["restart_s"] = fmean(_seconds(spans.restarts)) if spans.restarts else 0.0
    return Calibration(
        rates=Rates(**measured),
        measured_steps_per_hour=_steps_per_hour(spans.steps, plan.run.max_staleness),
        assumed=tuple(assumed),
    )


def with_given(measured: Rates, given: Rates) -> Rates:
    """The measured rates, where the configuration does not say otherwise."""
    said = {}
    for item in fields(Rates):
        default = item.default if item.default is not MISSING else item.default_factory()
        if (value := getattr(given, item.name)) != default:
            said[item.name] = value
    return replace(measured, **said)


def _tokens(plan: RunPlan, row: Row) -> float:
    """Response tokens of one step."""
    return row["rollout/response_tokens"] * plan.run.groups_per_step * plan.run.group_size


def _seconds(spans: Sequence[Span]) -> list[float]:
    return [end - start for start, end in spans]


def _line(places: Sequence[float], values: Sequence[float], weights: Sequence[float]) -> tuple[float, float]:
    """Intercept and slope, neither below 0, of the least squares; through the origin where all places are alike."""
    x, y, w = (np.asarray(column, float) for column in (places, values, weights))
    mean_x, mean_y = (float(np.average(column, weights=w)) for column in (x, y))
    variance = float(np.average((x - mean_x) ** 2, weights=w))
    if math.sqrt(variance) < VARIED * mean_x:
        return 0.0, mean_y / mean_x
    return _least_squares(mean_x, mean_y, variance, float(np.average((x - mean_x) * (y - mean_y), weights=w)))


def _least_squares(mean_x: float, mean_y: float, variance: float, covariance: float) -> tuple[float, float]:
    slope = covariance / variance
    if slope * mean_x > mean_y:
        return 0.0, mean_y / mean_x
    return (mean_y - slope * mean_x, slope) if slope > 0 else (mean_y, 0.0)


def _engine(rows: Sequence[Row], most: int, assumed: list[str]) -> dict[str, Any]:
    """`decode`, `turnover_s` and `aside_s`, from sums over all engine steps that the rows put together again."""
    drew = [row for row in rows if row.get("rollout/decode_steps")]
    if not drew:
        raise ConfigError(
            "metrics.jsonl has no rollout/decode_steps, engine steps in which responses neither began nor ended: give"
            " plan.rates.decode, or calibrate from a run with fewer responses at once"
        )
    names = ("decode_steps", "decode_batch", "decode_s", "decode_batch_std", "decode_token_s")
    counts, batches, steps_s, spreads, slopes = (np.array([row[f"rollout/{name}"] for row in drew]) for name in names)

    def mean(values: np.ndarray) -> float:
        return float(np.average(values, weights=counts))

    batch, step_s = mean(batches), mean(steps_s)
    variance = mean(spreads**2 + (batches - batch) ** 2)
    if math.sqrt(variance) < VARIED * batch:
        fixed_s, each_s = FIXED_SHARE * step_s, (1 - FIXED_SHARE) * step_s / batch
        assumed.append(
            f"the engines ran near {batch:.0f} responses all the time: that {FIXED_SHARE:.0%} of a decode step does not"
            " depend on the batch is assumed"
        )
    else:
        covariance = mean(slopes * spreads**2 + (batches - batch) * (steps_s - step_s))
        fixed_s, each_s = _least_squares(batch, step_s, variance, covariance)
    turned = [row for row in rows if "rollout/turnover_steps" in row]
    beyond_s = sum(
        row["rollout/turnover_steps"] * (row["rollout/turnover_s"] - fixed_s - each_s * row["rollout/turnover_batch"])
        for row in turned
    )
    begun = sum(row["rollout/begun"] for row in turned)
    return {
        "decode": {count: float(count / (fixed_s + each_s * count)) for count in (1, max(most, 2))},
        "turnover_s": max(beyond_s, 0.0) / begun if begun else 0.0,
        "aside_s": sum(row["rollout/aside_s"] for row in turned) / begun if begun else 0.0,
    }


def _lengths(folder: RunFolder, plan: RunPlan, rows: Sequence[Row], assumed: list[str]) -> Lengths:
    with sqlite3.connect(f"{folder.journal.as_uri()}?mode=ro", uri=True) as database:
        if database.execute("SELECT 1 FROM sqlite_master WHERE name = 'rollouts'").fetchone():
            kept = database.execute("SELECT task_index, length(response_ids) FROM rollouts ORDER BY task_index")
            groups = itertools.groupby(kept, key=itemgetter(0))
            found = tuple(tuple(max(size // INT32_BYTES, 1) for _, size in group) for _, group in groups)
            if found:
                return Lengths(recorded=found)
    lengths = Lengths(mean=max(fmean(row["rollout/response_tokens"] for row in rows), 1.0))
    assumed.append(
        f"the journal keeps no responses: their lengths are assumed to spread by {lengths.spread} of their mean"
    )
    return lengths


def _verifiers(spans: Sequence[Span], group_size: int) -> dict[str, float | None]:
    """Verifiers that take one group after the other, each for x seconds, and answer after a latency l besides.

    x and l are those whose departures come nearest to the ones seen, k-th to k-th: in which order the groups of a line
    are served does not matter then.
    """
    arrivals = np.sort([start for start, _ in spans[:FITTED_GROUPS]])
    departures = np.sort([end for _, end in spans[:FITTED_GROUPS]])
    _, busy_s = _union(spans[:FITTED_GROUPS])
    best = (np.inf, 0.0, 0.0)
    for each_s in np.linspace(0.0, busy_s / len(arrivals), SERVICE_TIMES):
        # f_k = max(f_(k - 1), a_k) + x, which is the largest a_j + (k - j + 1) x over all j <= k.
        rank = np.arange(len(arrivals)) * each_s
        late = departures - (np.maximum.accumulate(arrivals - rank) + rank + each_s)
        latency = max(float(late.mean()), 0.0)
        best = min(best, (float(((late - latency) ** 2).sum()), float(each_s), latency))
    _, each_s, latency = best
    return {"verdicts_per_s": group_size / each_s if each_s > 0 else None, "verdict_latency_s": latency}


def _union(spans: Sequence[Span]) -> tuple[int, float]:
    """Number of separate periods that the spans cover together, and their seconds."""
    periods, covered, upto = 0, 0.0, -np.inf
    for start, end in sorted(spans):
        if start > upto:
            periods += 1
        covered += max(end - max(start, upto), 0.0)
        upto = max(upto, end)
    return periods, covered


def _overhead(spans: Spans, rows: Sequence[Row]) -> float:
    """Seconds per step in which groups were on their way and the engines had nothing to decode, mean of the steps.

    Steps beside an evaluation are left out: what the engines decoded then was not of those groups alone.
    """
    idle_s = []
    for row in rows:
        step = int(row["step"])
        if not 2 <= step <= len(spans.steps) or "rollout/utilisation" not in row:
            continue
        begin, end = spans.steps[step - 2][1], spans.steps[step - 1][1]
        if any(a < end and b > begin for a, b in spans.evaluations):
            continue
        inside = [(max(a, begin), min(b, end)) for a, b in spans.groups if b > begin and a < end]
        idle_s.append(_union(inside)[1] - row["rollout/utilisation"] * row["time/step_s"])
    return max(fmean(idle_s), 0.0) if idle_s else 0.0


def _steps_per_hour(steps: Sequence[Span], max_staleness: int) -> float:
    begin, end = steady(len(steps), max_staleness)
    return (end - begin) / (steps[end][1] - steps[begin][1]) * HOUR_S
