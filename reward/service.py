"""The verifier service: many callers in, verdicts out, with at most `workers` batches of one verifier at work.

    verify() --too long?--> resource
             --composed?--> its parts (reward/composed.py)
             --> units: one request, or a whole group --> lane of the verifier: at most `max_waiting` responses wait
                                                          runner threads: what waits while a batch runs is the next one
             <-- verdicts in the order of the requests, counted by verifier and status

A plain class with async methods: orchestration makes a Ray actor of it, reward/http.py an HTTP service, and the
command `temper verify` uses it as it is. A fault of a verifier is an exception for the callers it touches; everything
that can be said about a response is a verdict.
"""

import asyncio
import dataclasses
import itertools
from collections import Counter
from collections.abc import Sequence

from reward.composed import combine, expand
from reward.config import RewardConfig
from reward.errors import RewardError, UnusableReference
from reward.lane import Lane, Load
from reward.messages import Status, Verdict, VerifyRequest
from reward.replica import Replica
from reward.verifier import COMPOSED, PROCESSES, VERIFIERS, verifier_class


def check_tools(verifiers: Sequence[str], config: RewardConfig) -> None:
    """Raises RewardError, one sentence, where a verifier is unknown or cannot work on this machine."""
    for name in verifiers:
        if name != COMPOSED:  # its parts say themselves what they miss
            verifier_class(name).check(config)


def missing_tools(config: RewardConfig) -> dict[str, str | None]:
    """Every registered verifier with the sentence that says what it lacks here, None where it can work."""
    missing: dict[str, str | None] = {}
    for name in sorted(VERIFIERS):
        try:
            check_tools([name], config)
            missing[name] = None
        except RewardError as error:
            missing[name] = str(error)
    return missing


class VerifierPool:
    """Judges requests of any registered verifier; each verifier starts when it is first asked."""

    def __init__(self, config: RewardConfig) -> None:
        self._config = config
        self._lanes: dict[str, Lane] = {}
        self._counts: Counter[tuple[str, Status]] = Counter()
        self._calls = itertools.count()

    async def verify(self, requests: Sequence[VerifyRequest], *, wait: bool = True) -> list[Verdict]:
        """One verdict per request, in order; requests of one verifier and group reach it in one batch.

        Waits for room where a verifier has `max_waiting` responses waiting, or with `wait=False` raises NoRoom before
        anything is judged. Raises RewardError for an unknown verifier, a broken set-up or a verifier's fault.
        """
        entries = [self._settled_or_parts(request) for request in requests]
        judged = iter(await self._judge([part for parts in entries if isinstance(parts, list) for part in parts], wait))
        verdicts = [
            entry if isinstance(entry, Verdict) else combined(request, list(itertools.islice(judged, len(entry))))
            for request, entry in zip(requests, entries, strict=True)
        ]
        self._counts.update(
            (request.verifier, verdict.status) for request, verdict in zip(requests, verdicts, strict=True)
        )
        return verdicts

    def _settled_or_parts(self, request: VerifyRequest) -> Verdict | list[VerifyRequest]:
        """A verdict where no verifier is needed, or what is to be judged: the request, or a composed one's parts."""
        size, limit = len(request.response), self._config.max_response_chars
        if size > limit:
            detail = f"the response has {size} characters, and more than {limit} are not read"
            return Verdict(id=request.id, reward=0.0, status=Status.RESOURCE, detail=detail)
        if not is_text(request.response):
            detail = "the response is no valid Unicode text: it holds half of a surrogate pair"
            return Verdict(id=request.id, reward=0.0, status=Status.MALFORMED, detail=detail)
        if request.verifier != COMPOSED:
            return [request]
        try:
            return expand(request)
        except UnusableReference as error:
            return Verdict(id=request.id, reward=0.0, status=Status.ERROR, detail=str(error))

    async def _judge(self, requests: Sequence[VerifyRequest], wait: bool) -> list[Verdict]:
        positions: dict[str, dict[object, list[int]]] = {}  # verifier -> unit -> where its members stand in `requests`
        for position, request in enumerate(requests):
            key = (position,) if request.group is None else request.group
            positions.setdefault(request.verifier, {}).setdefault(key, []).append(position)
        lanes = {name: self._lane(name) for name in positions}  # an unknown one raises before anything waits
        call = next(self._calls)
        work = {
            name: [tuple(within_call(requests[position], call) for position in unit) for unit in units.values()]
            for name, units in positions.items()
        }
        if wait:
            answers = await asyncio.gather(*(lanes[name].judge(units) for name, units in work.items()))
        else:
            for name, units in work.items():
                lanes[name].require_room(sum(map(len, units)))
            # nothing comes between the check and the entry of all lanes: the first await is after both
            futures = {name: [lanes[name].put(unit) for unit in units] for name, units in work.items()}
            answers = await asyncio.gather(*(asyncio.gather(*waiting) for waiting in futures.values()))
        verdicts: dict[int, Verdict] = {}
        for units, of_units in zip(positions.values(), answers, strict=True):
            for unit, of_unit in zip(units.values(), of_units, strict=True):
                verdicts.update(zip(unit, of_unit, strict=True))
        return [verdicts[position] for position in range(len(requests))]

    async def counts(self) -> dict[str, int]:
        """Verdicts given so far, by status."""
        return {status.value: sum(self._counts[name, status] for name in self._asked()) for status in Status}

    async def counts_by_verifier(self) -> dict[str, dict[str, int]]:
        """Verdicts given so far, by the verifier that was asked and by status."""
        return {name: {status.value: self._counts[name, status] for status in Status} for name in self._asked()}

    async def load(self) -> dict[str, Load]:
        """How much every verifier that was asked so far has to do now."""
        return {name: lane.load() for name, lane in self._lanes.items()}

    async def room(self, verifier: str) -> int:
        """Responses that this verifier takes now without making their caller wait."""
        return self._lane(verifier).room()

    async def pids(self) -> list[int]:
        """Worker processes alive now, for tests and diagnosis."""
        return [pid for lane in self._lanes.values() for pid in lane.pids()]

    async def close(self) -> None:
        """End every worker process; requests still waiting fail."""
        lanes, self._lanes = list(self._lanes.values()), {}
        await asyncio.gather(*(lane.close() for lane in lanes))

    def _asked(self) -> list[str]:
        return sorted({name for name, _ in self._counts})

    def _lane(self, name: str) -> Lane:
        if name not in self._lanes:
            kind, workers = verifier_class(name), self._config.workers_for(name)
            self._lanes[name] = Lane(
                [Replica(name, VERIFIERS[name], self._config) for _ in range(workers)]
                if name in PROCESSES
                else [kind(self._config)] * workers,
                self._config.max_waiting,
            )
        return self._lanes[name]


def within_call(request: VerifyRequest, call: int) -> VerifyRequest:
    """The request with a group name that no other call uses: callers do not know of each other's names."""
    return request if request.group is None else dataclasses.replace(request, group=f"{call}/{request.group}")


def combined(request: VerifyRequest, verdicts: list[Verdict]) -> Verdict:
    return combine(request, verdicts) if request.verifier == COMPOSED else verdicts[0]


def is_text(response: str) -> bool:
    """False where it cannot be written as UTF-8, which JSON's \\ud800 allows and no tool can be given."""
    try:
        response.encode()
    except UnicodeEncodeError:
        return False
    return True
