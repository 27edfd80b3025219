"""Groups whose responses are each made of several draws: all side by side, handed on as they finish, ended on demand.

    GroupRequest --once--> plan of the group --n times--> draw one response, by as many `Draws.one` as it takes

A strategy writes the two functions; what it does not have to think about is here: names of the single draws, handing
on, cancelling, aborting.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from rollout.continuation import not_begun
from rollout.errors import DeadlineError, RequestError
from rollout.messages import FinishReason, GroupRequest, Rollout
from rollout.strategies.passage import Passage, stitch
from rollout.strategies.strategy import Resources, RolloutSource

Plan = TypeVar("Plan")


@dataclass
class Draws:
    """The draws of one response. `all` has every one that is finished, in order."""

    request: GroupRequest
    index: int
    began: float = field(default_factory=time.perf_counter)
    all: list[Rollout] = field(default_factory=list)
    aborted: bool = False
    _number: int = 0
    _running: tuple[RolloutSource, str] | None = None

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.began

    async def one(self, engine: RolloutSource, **changes: Any) -> Rollout:
        """Draw once from `engine`: the request of the group with `changes` to its fields. Aborted: no tokens."""
        if self.aborted:
            return not_begun(self.request, self.index)
        self._number += 1
        name = f"{self.request.group_id}~{self.index}.{self._number}"
        self._running = (engine, name)
        try:
            async with aclosing(engine.generate(replace(self.request, **changes, group_id=name, n=1))) as drawn:
                async for rollout in drawn:
                    self.all.append(rollout)
        finally:
            self._running = None
        return self.all[-1]

    def response(self, passage: Passage, finish_reason: FinishReason, resources: Resources) -> Rollout:
        """The response made of `passage`, with what all draws for it cost."""
        return stitch(
            self.request,
            self.index,
            passage,
            draws=self.all,
            version=resources.version(),
            finish_reason=finish_reason,
            decode=resources.decode,
            seconds=self.seconds,
        )

    async def abort(self) -> None:
        """End the draw that is running, if any; whoever makes the response sees FinishReason.ABORT, or `aborted`."""
        self.aborted = True
        if self._running is not None:
            engine, name = self._running
            await engine.abort(name)


class SampleBySample(Generic[Plan]):
    """A source of a function that makes one response, `sample(draws, plan)`, and one that plans a group."""

    def __init__(
        self,
        sample: Callable[[Draws, Plan], Awaitable[Rollout]],
        plan: Callable[[GroupRequest], Awaitable[Plan]],
        deadline_s: float,
    ) -> None:
        self._sample = sample
        self._plan = plan
        self._deadline_s = deadline_s
        self._groups: dict[str, list[Draws]] = {}

    async def generate(self, request: GroupRequest) -> AsyncIterator[Rollout]:
        if request.group_id in self._groups:
            raise RequestError(f"group {request.group_id} is being generated already: give every group its own id")
        if request.partial:
            raise RequestError(
                f"group {request.group_id}: a decoding strategy cannot go on with aborted responses, whose plan is"
                " forgotten: ask for the group again, or use strategy=none"
            )
        draws = self._groups[request.group_id] = [Draws(request, index) for index in range(request.n)]
        tasks: list[asyncio.Task] = []
        try:
            plan = await self._plan(request)
            tasks += [asyncio.create_task(self._sample(one, plan)) for one in draws]
            for finished in asyncio.as_completed(tasks, timeout=self._deadline_s):
                yield await finished
        except TimeoutError as late:
            raise DeadlineError(
                f"group {request.group_id} was not finished within {self._deadline_s:g} s (rollout.request_deadline_s):"
                f" {sum(not task.done() for task in tasks)} of its {request.n} responses still wanted draws; raise the"
                " deadline, or give the strategy less to do"
            ) from late
        finally:
            del self._groups[request.group_id]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def abort(self, group_id: str) -> int:
        draws = self._groups.get(group_id, [])
        await asyncio.gather(*(one.abort() for one in draws))
        return len(draws)


async def no_plan(request: GroupRequest) -> None:
    """For strategies that decide nothing for a group as a whole."""
