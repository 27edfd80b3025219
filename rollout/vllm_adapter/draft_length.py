"""How many drafts the next step makes, chosen while the engine runs: none where speculation does not pay.

    scheduler's steps --seconds--> MeasuredSteps --+
    drafts judged and accepted --> AcceptanceMeter-+--DraftLengthChooser--> K --> the scheduler's `dynamic_sd_lookup`

It sits at the scheduler, the one place that sees both and exists in either engine's process. With K = 0 the drafter
still reads along, so that drafting can start again in the middle of a response.

Seam of vLLM 0.32: `Scheduler.schedule` reads the K of each batch size from the list `dynamic_sd_lookup`, which
`num_speculative_tokens_per_batch_size` makes it have. Check: tests/rollout/test_draft_length.py.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

from rollout.draw.speculation import AcceptanceMeter, DraftLengthChooser
from rollout.draw.step_cost import MeasuredSteps

DECIDE_EVERY = 8  # steps


def schedule_of(largest: int) -> list[tuple[int, int, int]]:
    """vLLM's num_speculative_tokens_per_batch_size to start with: from batch size 1 on, the largest K."""
    return [(1, 1, largest)]


def install(scheduler: Any) -> "DraftLength":
    """Let the scheduler's K follow what is measured."""
    from vllm.platforms import current_platform  # start.py, which imports this file, comes before vLLM

    # On a CPU the model runs in this thread; the wall clock would count whoever else uses the machine.
    clock = time.thread_time if current_platform.is_cpu() else time.perf_counter
    length = DraftLength(scheduler, scheduler.num_spec_tokens, clock)
    scheduler.schedule, scheduler.update_from_output = length.schedule, length.update_from_output
    return length


class DraftLength:
    """In front of a vLLM scheduler: `drafts` is the K of the next step, of at most `largest`."""

    def __init__(self, scheduler: Any, largest: int, clock: Callable[[], float]) -> None:
        self._scheduler = scheduler
        self._schedule, self._update = scheduler.schedule, scheduler.update_from_output
        self.meter = AcceptanceMeter()
        self.steps = MeasuredSteps(largest=largest)
        self.chooser = DraftLengthChooser(largest=largest, cost=self.steps)
        self.drafts = largest
        self._largest = largest
        self._running = 0
        self._countdown = DECIDE_EVERY
        self._step: tuple[int, int, bool] | None = None  # the step under way: requests, drafts, can it be compared
        self._began = 0.0
        self._clock = clock

    def schedule(self, *arguments: Any, **named: Any) -> Any:
        now = self._clock()
        if self._step is not None:
            requests, drafts, comparable = self._step
            self.steps.observe(requests, drafts, now - self._began if comparable else None)
        self._began = now
        self._choose()
        output = self._schedule(*arguments, **named)
        self._running = len(output.num_scheduled_tokens)
        self._step = (self._running, self.drafts, _comparable(output)) if self._running else None
        return output

    def update_from_output(self, scheduler_output: Any, runner_output: Any) -> Any:
        drafted = scheduler_output.scheduled_spec_decode_tokens
        if drafted:
            judged, accepted = [0] * self._largest, [0] * self._largest
            for name, drafts in drafted.items():
                row = runner_output.req_id_to_index.get(name)
                emitted = runner_output.sampled_token_ids[row] if row is not None else ()
                passed, seen = self._passed(name, emitted, len(drafts))
                for position in range(seen):
                    judged[position] += 1
                    accepted[position] += position < passed
            self.meter.observe(judged, accepted)
        outputs = self._update(scheduler_output, runner_output)
        if not self._scheduler.has_unfinished_requests():
            self._step = None  # the next step comes after a pause
        return outputs

    def _passed(self, name: str, emitted: Sequence[int], drafts: int) -> tuple[int, int]:
        """How many of the request's drafts passed and how many were judged: none behind the end of the response."""
        passed = len(emitted) - 1
        stops = self._scheduler.requests[name].sampling_params.all_stop_token_ids
        ended = next((place + 1 for place, token in enumerate(emitted) if token in stops), None)
        if ended is not None and ended <= passed:
            return ended, ended
        return max(passed, 0), min(passed + 1, drafts)

    def _choose(self) -> None:
        """Set the K of the step that is scheduled now."""
        if not self._running:
            return
        drafts = self.steps.wanted(self._running)
        if drafts is None:
            self._countdown -= 1
            if self._countdown <= 0 and self.steps.knows(self._running):
                self._countdown = DECIDE_EVERY
                self.chooser.decide(self._running, self.meter)
            drafts = self.chooser.length
        if drafts != self.drafts:
            self.drafts = drafts
            lookup = self._scheduler.dynamic_sd_lookup
            lookup[:] = [drafts] * len(lookup)


def _comparable(output: Any) -> bool:
    """Whether every request had, and gets, the same number of drafts, and no prompt was read."""
    requests, drafts = len(output.num_scheduled_tokens), output.num_spec_tokens_to_schedule
    verified = sum(map(len, output.scheduled_spec_decode_tokens.values()))
    return (
        not output.scheduled_new_reqs
        and output.total_num_scheduled_tokens == requests * (1 + drafts)
        and verified == requests * drafts
    )
