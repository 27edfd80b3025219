"""Cases in, findings out: what must hold of every verdict, whatever the case.

One request at a time, and some among honest neighbours: no exception, an end by the deadline plus a second, a status
that blames nobody wrongly, a reward in [0, 1], none for a response that is known to be wrong, the full one for a
neighbour, no process left at work, no file left behind.
"""

import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from reward.config import RewardConfig
from reward.messages import Status, Verdict, VerifyRequest
from reward.verifier import Verifier, verifier_class
from tests.reward.attacks.math_fuzz import MathFuzz
from tests.reward.attacks.verilog_fuzz import VerilogFuzz

DEADLINE_S = 3.0
GRACE_S = 1.0
FUZZERS: dict[str, Callable[[random.Random], "Fuzzer"]] = {"math": MathFuzz, "verilog": VerilogFuzz}


class Case(Protocol):
    request: VerifyRequest
    wrong: bool
    mates: tuple[VerifyRequest, ...]
    sound: bool  # the reference is usable


class Fuzzer(Protocol):
    def case(self) -> Case: ...


@dataclass
class Tally:
    """What came out. `slowest_s`: seconds of the slowest verdict."""

    cases: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    rewarded: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Finding:
    case: str  # seed that grows the case again
    complaint: str
    request: VerifyRequest


def case_of(verifier: str, seed: str) -> Case:
    """The case that a seed stands for."""
    return FUZZERS[verifier](random.Random(seed)).case()


def fuzz(name: str, seconds: float, seed: int, tally: Tally, config: RewardConfig | None = None) -> Iterator[Finding]:
    """Judge new cases until the time is over."""
    verifier = verifier_class(name)(config or RewardConfig(deadline_s=DEADLINE_S))
    end = time.monotonic() + seconds
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder
        try:
            warm_up(verifier, name)
            while time.monotonic() < end:
                number = f"{seed}:{tally.cases}"
                case = case_of(name, number)
                for complaint in complaints(verifier, case, tally):
                    yield Finding(case=number, complaint=complaint, request=case.request)
        finally:
            tempfile.tempdir = before
            verifier.close()
            left = [one.name for one in Path(folder).iterdir()]
            alive = verifier.pids()
    if left or alive:
        nothing = VerifyRequest(id="", verifier=name, response="", reference={})
        yield Finding(case="-", complaint=f"left behind: files {left}, processes {alive}", request=nothing)


def warm_up(verifier: Verifier, name: str) -> None:
    """Read every problem first: the deadline is for judging a response."""
    seen: dict[str, VerifyRequest] = {}
    for index in range(200):
        request = case_of(name, f"warm:{index}").request
        seen.setdefault(str(request.reference) if name == "verilog" else name, request)
    for request in seen.values():
        verifier.verify([request])


def complaints(verifier: Verifier, case: Case, tally: Tally) -> list[str]:
    started = time.monotonic()
    try:
        verdict, *others = verifier.verify([case.request, *case.mates])
    except Exception as error:  # the finding itself: verify never raises for a response
        tally.cases += 1
        return [f"raised {type(error).__name__}: {error}"]
    took_s = time.monotonic() - started
    tally.cases += 1
    tally.statuses[verdict.status.value] += 1
    tally.slowest_s = max(tally.slowest_s, took_s)
    if verdict.reward > 0.0:
        tally.rewarded[case.request.id] += 1
    found = list(broken_promises(verifier, case, verdict))
    if took_s > (DEADLINE_S + GRACE_S) * (1 + len(case.mates)):
        found.append(f"took {took_s:.1f} s, {verdict.status}: {verdict.detail}")
    return found + [
        f"an honest neighbour gets {one.reward} {one.status}: {one.detail}" for one in others if one.reward < 1
    ]


def broken_promises(verifier: Verifier, case: Case, verdict: Verdict) -> Iterator[str]:
    if verdict.status not in tuple(Status) or verdict.id != case.request.id:
        yield f"unlawful verdict {verdict}"
    if verdict.status == Status.ERROR and case.sound:
        yield f"a response is called a fault of ours: {verdict.detail}"
    if not 0.0 <= verdict.reward <= 1.0 or (verdict.reward > 0.0 and verdict.status != Status.SCORED):
        yield f"reward {verdict.reward} with status {verdict.status}"
    if case.wrong and verdict.reward > 0.0:
        yield f"a wrong response earns {verdict.reward}: {verdict.detail}"
    if case.request.verifier == "verilog" and verifier.pids():
        yield f"processes {verifier.pids()} are at work after the verdict"
