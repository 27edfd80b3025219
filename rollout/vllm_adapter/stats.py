"""vLLM's own statistics of every engine step, summed into EngineMetrics.

    scheduler step --SchedulerStats, IterationStats--> EngineStats.record --> EngineMetrics

Seam: vLLM 0.32 hands each step's statistics to `logger_manager.record`; `watch` puts EngineStats in the place of its
loggers, whose Prometheus and console output nobody reads here. Check: tests/rollout/test_engines.py.
"""

import time
from typing import TYPE_CHECKING, Any

from rollout.admission import Admission
from rollout.groups import Groups
from rollout.messages import EngineMetrics

if TYPE_CHECKING:
    from vllm.v1.metrics.stats import IterationStats, SchedulerStats


class EngineStats:
    """Counters since the start, and how things stood after the last step. Written by the thread that steps vLLM.

    A step lasts from the one before it, or from when somebody came to the empty engine, or from the end of an exchange
    of weights: taking requests in and handing responses on is its work too.
    """

    def __init__(self, admission: Admission, steps_here: bool = True) -> None:
        self.last_step_at = time.perf_counter()
        self._admission = admission
        self._exchanged = False  # weights, since the last step
        self._steps_here = steps_here  # in this process
        self._spent_s: float | None = None  # CPU seconds of other threads, up to the last step
        self._aside_s = 0.0
        self._steps = 0
        self._begun = 0
        self._step_s = 0.0
        self._plain_steps = 0
        self._plain_tokens = 0
        self._plain_squared_tokens = 0
        self._plain_s = 0.0
        self._plain_token_s = 0.0
        self._generated_tokens = 0
        self._running = 0
        self._kv_cache_usage = 0.0
        self._prompt_tokens = 0
        self._cached_prompt_tokens = 0
        self._preemptions = 0
        self._drafted: list[int] = []
        self._accepted: list[int] = []

    def record(
        self,
        scheduler_stats: "SchedulerStats | None",
        iteration_stats: "IterationStats | None",
        mm_cache_stats: Any = None,
        engine_idx: int | None = None,
    ) -> None:
        """Called by vLLM after every step."""
        began, before, self.last_step_at = self._step_began, self.last_step_at, time.perf_counter()
        if self._steps_here:
            spent_s = time.process_time() - time.thread_time()
            if self._spent_s is not None and began > before:  # what was done during a step is in its seconds
                self._aside_s += spent_s - self._spent_s
            self._spent_s = spent_s
        if iteration_stats is not None:
            self._generated_tokens += iteration_stats.num_generation_tokens
            self._preemptions += iteration_stats.num_preempted_reqs
            self._begun += len(iteration_stats.time_to_first_tokens_iter)
        if scheduler_stats is None:
            return
        self._steps += 1
        self._time(self.last_step_at - began, scheduler_stats, iteration_stats)
        self._running = scheduler_stats.num_running_reqs
        self._kv_cache_usage = scheduler_stats.kv_cache_usage
        prefix = scheduler_stats.prefix_cache_stats
        self._prompt_tokens += prefix.queries
        self._cached_prompt_tokens += prefix.hits
        if (drafts := scheduler_stats.spec_decoding_stats) is not None:
            self._drafted = _added(self._drafted, drafts.num_draft_tokens_per_pos)
            self._accepted = _added(self._accepted, drafts.num_accepted_tokens_per_pos)

    def exchanged(self) -> None:
        """An exchange of weights is over: its time belongs to no step."""
        self.last_step_at = time.perf_counter()
        self._exchanged = True

    @property
    def _step_began(self) -> float:
        return max(self.last_step_at, self._admission.busy_since or 0.0)

    def _time(self, seconds: float, scheduler: "SchedulerStats", iteration: "IterationStats | None") -> None:
        self._step_s += seconds
        exchanged, self._exchanged = self._exchanged, False
        if iteration is None or exchanged or iteration.num_prompt_tokens or iteration.finished_requests:
            return
        tokens = iteration.num_generation_tokens
        if not tokens or tokens < scheduler.num_running_reqs:  # one of those that run reads a part of its prompt
            return
        self._plain_steps += 1
        self._plain_tokens += tokens
        self._plain_squared_tokens += tokens**2
        self._plain_s += seconds
        self._plain_token_s += tokens * seconds

    def metrics(self, groups: Groups) -> EngineMetrics:
        admission = groups.admission
        running = min(self._running, admission.inside)  # what was aborted since the last step is not running
        return EngineMetrics(
            generated_tokens=self._generated_tokens,
            running=running,
            waiting=admission.inside - running + admission.waiting,
            capacity=admission.capacity,
            busy_s=admission.busy_s,
            steps=self._steps,
            kv_cache_usage=self._kv_cache_usage,
            prompt_tokens=self._prompt_tokens,
            cached_prompt_tokens=self._cached_prompt_tokens,
            preemptions=self._preemptions,
            aborted=groups.aborted,
            drafted_by_position=tuple(self._drafted),
            accepted_by_position=tuple(self._accepted),
            begun=self._begun,
            step_s=self._step_s,
            aside_s=self._aside_s,
            plain_steps=self._plain_steps,
            plain_tokens=self._plain_tokens,
            plain_squared_tokens=self._plain_squared_tokens,
            plain_s=self._plain_s,
            plain_token_s=self._plain_token_s,
        )

    def record_sleep_state(self, asleep: int, level: int) -> None:
        """vLLM says so; whoever asked for it knows."""

    def log(self) -> None:
        """vLLM asks for a line on the console now and then: the monitor writes ours."""


def watch(vllm: Any, admission: Admission) -> EngineStats:
    """Take the place of the loggers of an LLMEngine or AsyncLLM, started with disable_log_stats=False."""
    asynchronous = hasattr(vllm, "_logger_ref")  # AsyncLLM, whose output task, which is running already, looks there
    stats = vllm.logger_manager = EngineStats(admission, steps_here=not asynchronous)
    if asynchronous:
        vllm._logger_ref[0] = stats
    return stats


def _added(sums: list[int], more: list[int]) -> list[int]:
    """Per position; the number of drafts may change while the engine runs."""
    longest = max(len(sums), len(more))
    return [sum(values[i] for values in (sums, more) if i < len(values)) for i in range(longest)]
