"""From a checked file of cases to verdicts, in the order of the lines and in bounded memory.

    units --chunks of neighbours--> VerifierPool, `WINDOW_CHUNKS` at a time --oldest first--> write

While the oldest chunk is judged, later ones are too: a slow response holds up the output, not the work.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from orchestration.case_file import Line
from reward.messages import Status, Verdict
from reward.service import VerifierPool
from reward.wire import outcome

CHUNK_CASES = 256  # in one call of the pool, so that verifiers see batches
CHUNK_BYTES = 4 << 20
WINDOW_CHUNKS = 8
WINDOW_BYTES = 64 << 20  # of lines at work; a group may be as large


@dataclass
class Tally:
    """What the verdicts of a file say together."""

    statuses: Counter[Status] = field(default_factory=Counter)
    rewards: float = 0.0  # sum over the verdicts that judge a response

    def add(self, verdict: Verdict) -> None:
        self.statuses[verdict.status] += 1
        if verdict.trainable:
            self.rewards += verdict.reward

    def __str__(self) -> str:
        judged = self.statuses[Status.SCORED] + self.statuses[Status.MALFORMED]
        shown = ", ".join(f"{self.statuses[status]} {status.value}" for status in Status)
        mean = f"{self.rewards / judged:.4f} over scored and malformed" if judged else "none"
        return f"{self.statuses.total()} verdicts: {shown}; mean reward {mean}"


async def judge_file(
    units: Iterable[list[Line]],
    pool: VerifierPool,
    write: Callable[[dict[str, Any]], None],
    advance: Callable[[int], None],
) -> Tally:
    """Judge all units; `write` gets every verdict, `advance` the number of cases done. Raises RewardError."""
    tally = Tally()
    window: deque[tuple[list[Line], asyncio.Task[list[Verdict]]]] = deque()
    held = 0  # bytes of lines in `window`

    async def finish_oldest() -> int:
        lines, task = window[0]
        verdicts = await task
        window.popleft()
        for line, verdict in zip(lines, verdicts, strict=True):
            tally.add(verdict)
            write(outcome(line.case.id, verdict))
        advance(len(lines))
        return size_of(lines)

    try:
        for lines in chunks(units):
            while window and (len(window) >= WINDOW_CHUNKS or held + size_of(lines) > WINDOW_BYTES):
                held -= await finish_oldest()
            window.append((lines, asyncio.create_task(pool.verify([line.case.request() for line in lines]))))
            held += size_of(lines)
            await asyncio.sleep(0)  # the chunk goes to work before the next one is read
        while window:
            held -= await finish_oldest()
    finally:
        for _, task in window:
            task.cancel()
        await asyncio.gather(*(task for _, task in window), return_exceptions=True)
    return tally


def chunks(units: Iterable[list[Line]]) -> Iterator[list[Line]]:
    """Neighbouring units together, none of them split."""
    chunk: list[Line] = []
    held = 0
    for unit in units:
        size = size_of(unit)
        if chunk and (len(chunk) + len(unit) > CHUNK_CASES or held + size > CHUNK_BYTES):
            yield chunk
            chunk, held = [], 0
        chunk.extend(unit)
        held += size
    if chunk:
        yield chunk


def size_of(lines: list[Line]) -> int:
    return sum(line.size for line in lines)
