"""A group's life inside the worker: admitted by age, drawn, and each response handed on the moment it is finished.

    GroupRequest --n responses--> Admission --> Core.draw (vLLM) --> Rollout --> whoever iterates, in any order
                                                  ^ abort(group): every response ends with the tokens it has
                                                  ^ deadline, or nobody iterates any more: the rest is ended and dropped

Both engines use this; what differs between them is `Core`.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Protocol

from rollout.admission import Admission, Ticket
from rollout.continuation import Decode, joined, not_begun, rest_of
from rollout.errors import DeadlineError, RequestError
from rollout.messages import GroupRequest, Rollout

MOMENT_S = 0.001  # even behind the deadline, what is finished already is handed on


class Core(Protocol):
    """Draws one response at a time, many at the same time."""

    async def draw(self, request: GroupRequest, index: int) -> Rollout:
        """One response. When cancelled it is ended inside the engine too. Raises EngineLostError for a dead engine."""

    async def stop(self, request: GroupRequest, index: int) -> None:
        """Make a running `draw` return what it has, with FinishReason.ABORT; without one, do nothing."""


@dataclass
class _Group:
    request: GroupRequest
    running: dict[int, GroupRequest] = field(default_factory=dict)  # in the engine: index -> what it is asked
    tickets: set[Ticket] = field(default_factory=set)  # waiting for a place
    tasks: list[asyncio.Task] = field(default_factory=list)  # one per response
    aborted: bool = False


class Groups:
    """All groups of one engine. `deadline_s`: the longest a group may take from its arrival."""

    def __init__(self, core: Core, capacity: int, deadline_s: float, decode: Decode) -> None:
        self.admission = Admission(capacity)
        self.aborted = 0
        self._core = core
        self._deadline_s = deadline_s
        self._decode = decode
        self._groups: dict[str, _Group] = {}

    async def generate(self, request: GroupRequest) -> AsyncIterator[Rollout]:
        """Every response of the group as it finishes. Raises DeadlineError when the deadline passes."""
        if request.group_id in self._groups:
            raise RequestError(f"group {request.group_id} is being generated already: give every group its own id")
        group = self._groups[request.group_id] = _Group(request)
        finished: asyncio.Queue[asyncio.Task] = asyncio.Queue()
        begun = {partial.index: partial for partial in request.partial}
        indices = begun if begun else range(request.n)
        tasks = [asyncio.create_task(self._response(group, index, begun.get(index))) for index in indices]
        group.tasks = tasks
        for task in tasks:
            task.add_done_callback(finished.put_nowait)
        deadline = time.perf_counter() + self._deadline_s
        try:
            for done in range(len(tasks)):
                try:
                    task = await asyncio.wait_for(finished.get(), max(deadline - time.perf_counter(), MOMENT_S))
                except TimeoutError as late:
                    raise DeadlineError(
                        f"group {request.group_id} was not finished within {self._deadline_s:g} s"
                        f" (rollout.request_deadline_s): {len(tasks) - done} of {len(tasks)} responses were still being"
                        " drawn and are dropped; raise the deadline, or lower task.max_tokens or run.group_size"
                    ) from late
                yield task.result()
        finally:
            del self._groups[request.group_id]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def check_idle(self) -> None:
        """Raises RequestError while there is a group: what is about to happen would drop it."""
        if self._groups:
            raise RequestError(
                f"{len(self._groups)} groups are being generated, and the engine is asked to sleep: wait for them, or"
                " abort them"
            )

    async def abort(self, group_id: str) -> int:
        """End the group's responses now; its iterator yields what they have. Returns how many; 0: no such group."""
        group = self._groups.get(group_id)
        if group is None:
            return 0
        group.aborted = True
        ended = sum(not task.done() for task in group.tasks)
        self.aborted += ended
        for ticket in group.tickets:
            if not ticket.done():
                ticket.set_result(False)
        for index, request in list(group.running.items()):
            await self._core.stop(request, index)
        return ended

    async def _response(self, group: _Group, index: int, partial: Rollout | None) -> Rollout:
        request = group.request if partial is None else rest_of(group.request, partial)
        began = time.perf_counter()
        if not await self._admitted(group):
            return partial or not_begun(request, index)
        group.running[index] = request
        try:
            rollout = await self._core.draw(request, index)
        finally:
            del group.running[index]
            self.admission.leave()
        rollout = replace(rollout, seconds=time.perf_counter() - began)
        return rollout if partial is None else joined(partial, rollout, self._decode)

    async def _admitted(self, group: _Group) -> bool:
        """Wait for a place; False where the group was aborted before there was one."""
        if group.aborted:
            return False
        ticket = self.admission.join(group.request.priority)
        group.tickets.add(ticket)
        try:
            entered = await ticket
            if entered and group.aborted:  # called in the very moment of the abort
                self.admission.leave()
            return entered and not group.aborted
        except asyncio.CancelledError:
            if not ticket.cancelled() and ticket.result():  # called in the very moment it was cancelled
                self.admission.leave()
            raise
        finally:
            group.tickets.discard(ticket)
