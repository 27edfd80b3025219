"""The Verilog attacks: every response here is hostile and wrong, and none may earn a reward.

    verilog_reach.py     speak, end, read, call, replace, override, drive, touch the host
    verilog_disguise.py  hide code from a reader, notice the test, unknown values, odd ports, tricks on extraction
    verilog_exhaust.py   bombs for the compiler, hangs and floods for the simulator

In a body, `CLK`, `IN_` and `OUT_` stand for two inputs and an output of the problem it is aimed at.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from reward.messages import Status, VerifyRequest
from tests.reward.attacks.verilog_problems import PROBLEMS, Problem

JUDGED = frozenset((Status.SCORED, Status.MALFORMED))
# Aimed at these, an attack runs with the slow tests: the other problems stand for all forms of one.
OCCASIONAL = frozenset(("detector", "memory", "rtllm", "handshake"))
ENDED = JUDGED | {Status.TIMEOUT, Status.RESOURCE}  # what may be said of a design that uses up its limits


@dataclass(frozen=True, kw_only=True)
class Attack:
    """`statuses`: the allowed ones. `slow`: it costs seconds, or what it shows is shown in every run by another."""

    name: str
    kind: str
    problem: Problem
    response: str
    statuses: frozenset[Status] = JUDGED
    slow: bool = False

    @property
    def id(self) -> str:
        return f"{self.kind}: {self.name} [{self.problem.name}]"

    def request(self, canary: str = "/tmp/canary") -> VerifyRequest:
        """`canary`: the file of the host that `CANARY` in a response stands for."""
        response = self.response.replace("CANARY", canary)
        return VerifyRequest(id=self.id, verifier="verilog", response=response, reference=self.problem.reference)


@dataclass(frozen=True, kw_only=True)
class Body:
    """Text inside the wanted module. `alone`: without the statements that drive its outputs wrongly."""

    text: str
    before: str = ""
    after: str = ""
    alone: bool = False


def spread(
    kind: str,
    bodies: Mapping[str, str | Body],
    problems: Iterable[str],
    *,
    statuses: frozenset[Status] = JUDGED,
    slow: frozenset[str] = frozenset(),
) -> Iterator[Attack]:
    """Each body, aimed at each of the problems; `slow`: names of those that cost seconds."""
    for name, body in bodies.items():
        parts = body if isinstance(body, Body) else Body(text=body)
        for problem in map(PROBLEMS.__getitem__, problems):
            yield Attack(
                name=name,
                kind=kind,
                problem=problem,
                response=problem.response(parts.text, parts.before, parts.after, keep_wrong=not parts.alone),
                statuses=statuses,
                slow=name in slow or problem.name in OCCASIONAL,
            )
