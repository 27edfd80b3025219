"""From what the loop sees to what the monitor shows: clocks, rates, and the samples of the report.

`time/elapsed_s` counts from the first training rollout; `time/evaluation_s` is the part of it during which an
evaluation ran. Of the publication since the step before, where there was one, a step shows what came to its end:

    weights/snapshot_s   the learner makes the new weights ready
    weights/transfer_s   from then until every engine has confirmed them
    weights/waited_s     of that, until an engine came to it, at the end of a running step (mean of the engines)
    weights/paused_s     of that, an engine stood still (mean)

and `learner/utilisation` is the share of the time in which the learner took the step or made new weights ready.
"""

import time
from collections import deque
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from learner.messages import StepReport
from orchestration.config import RunPlan
from orchestration.engine_rates import engine_rates, generated_tokens
from orchestration.evaluation import EvaluationResult, Judged
from orchestration.monitor import Monitor, Sample
from rollout.messages import EngineMetrics, WeightConfirmation

RATE_STEPS = 5  # generation runs ahead of training in bursts: its rate is taken over this many steps
SHOWN_SAMPLES = 8  # greedy held-out responses of an evaluation that the report may show


class Telemetry:
    """Told of everything that happens in a run; keeps only what the next rate needs."""

    def __init__(self, plan: RunPlan, monitor: Monitor, tokenizer: Any) -> None:
        self._plan = plan
        self._monitor = monitor
        self._tokenizer = tokenizer
        self._before_s = monitor.elapsed_before_s  # of the part before a resume
        self._first_group: float | None = None
        self._last_step: float | None = None
        self._evaluation_began: float | None = None
        self._evaluation_s = 0.0
        self._publication_phase = 0.0  # when it began
        self._publication: dict[str, float] = {}  # what came to its end since the last step
        self._engines: dict[str, EngineMetrics] = {}
        self._recent: deque[tuple[float, float]] = deque(maxlen=RATE_STEPS)  # (seconds, tokens generated) of a step

    def problem(self, text: str) -> None:
        self._monitor.event(text, problem=True)

    def group_started(self) -> None:
        if self._first_group is None:
            self._first_group = self._last_step = time.perf_counter()

    def evaluation_started(self) -> None:
        self._evaluation_began = time.perf_counter()

    def evaluation(self, version: int, result: EvaluationResult) -> None:
        if self._first_group is not None:  # the one before training does not count
            self._evaluation_s += time.perf_counter() - self._evaluation_began
        self._monitor.evaluated({"step": version, "policy_version": version, **self._clock(), **result.metrics})
        if version in (0, self._plan.run.steps):
            self._monitor.samples([self._sample(judged, version) for judged in result.greedy[:SHOWN_SAMPLES]])

    def snapshot_started(self) -> None:
        self._publication_phase = time.perf_counter()

    def sending_started(self) -> None:
        began, self._publication_phase = self._publication_phase, time.perf_counter()
        self._publication["weights/snapshot_s"] = self._publication_phase - began

    def published(self, confirmations: Sequence[WeightConfirmation]) -> None:
        """Every engine that lives has confirmed."""
        self._publication["weights/transfer_s"] = time.perf_counter() - self._publication_phase
        if confirmations:
            self._publication["weights/waited_s"] = fmean(one.seconds - one.paused_s for one in confirmations)
            self._publication["weights/paused_s"] = fmean(one.paused_s for one in confirmations)

    def step(self, report: StepReport, batch: dict[str, float], engines: dict[str, EngineMetrics]) -> None:
        now = time.perf_counter()
        step_s = now - self._last_step
        self._last_step = now
        self._recent.append((step_s, generated_tokens(self._engines, engines)))
        rates = engine_rates(self._engines, engines, step_s)
        self._engines = engines
        recent_s, recent_tokens = (sum(column) for column in zip(*self._recent, strict=True))
        learner_s = report.metrics["learner/step_s"]
        publication, self._publication = self._publication, {}
        self._monitor.record(
            {
                "step": report.version,
                "policy_version": report.version,
                **self._clock(),
                "time/step_s": step_s,
                **batch,
                **report.metrics,
                "rollout/tokens_per_s": recent_tokens / recent_s,
                **rates,
                "learner/tokens_per_s": report.metrics["learner/tokens"] / learner_s,
                "learner/utilisation": (learner_s + publication.get("weights/snapshot_s", 0.0)) / step_s,
                **publication,
            }
        )

    def _clock(self) -> dict[str, float]:
        running_s = 0.0 if self._first_group is None else time.perf_counter() - self._first_group
        return {"time/elapsed_s": self._before_s + running_s, "time/evaluation_s": self._evaluation_s}

    def _sample(self, judged: Judged, version: int) -> Sample:
        rollout = judged.rollout
        return Sample(
            prompt=judged.task.prompt,
            response=rollout.text,
            reward=judged.verdict.reward,
            status=str(judged.verdict.status),
            step=version,
            detail=judged.verdict.detail,
            tokens=tuple(self._tokenizer.decode([token]) for token in rollout.response_ids.tolist()),
            temperatures=tuple(rollout.temperatures.tolist()),
            entropies=tuple(rollout.entropies.tolist()),
        )
