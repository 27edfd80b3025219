"""How much a design earns: findings about it in, a judgement with every component out.

    parse -> compile -> ports -> partial -> full -> formal -> cost        the first rung missed stops the climb

A fraction of samples is no measure by itself: on some problems a constant output agrees with nine tenths of them. So
partial credit counts from the best constant design upwards, and such a design gets none.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from reward.config import LadderConfig
from reward.messages import Status
from reward.verilog.judgement import Judgement
from reward.verilog.traces import UNKNOWN, NoTrace, Trace, row_agrees

CANDIDATES = 32  # constant rows tried: those seen most often in the expected trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What is known of one design. None: not known, or not asked.

    parse, compile, ports   it came that far
    match                   fraction of samples in which it agrees with the reference
    baseline                that of the best design with constant outputs
    full                    it passed: every sample agrees, or the testbench says so
    trusted_harness         nothing of the design ran where it was judged
    formal                  yosys found no difference (True), or one that the simulator confirms (False)
    cost                    cells of the reference / cells of the design, at most 1
    """

    status: Status = Status.SCORED
    parse: bool = True
    compile: bool | None = None
    ports: bool | None = None
    match: float | None = None
    baseline: float | None = None
    full: bool | None = None
    trusted_harness: bool | None = None
    formal: bool | None = None
    cost: float | None = None
    detail: str = ""
    certain: bool = True

    @property
    def partial(self) -> float | None:
        """The part of the way from the best constant design to a right one."""
        if self.full:
            return 1.0
        if self.match is None or self.baseline is None:
            return None
        return max(0.0, self.match - self.baseline) / (1.0 - self.baseline) if self.baseline < 1.0 else 0.0

    @property
    def components(self) -> Mapping[str, float]:
        names = (
            "parse",
            "compile",
            "ports",
            "match",
            "baseline",
            "partial",
            "full",
            "trusted_harness",
            "formal",
            "cost",
        )
        return {name: float(value) for name in names if (value := getattr(self, name)) is not None}


def unparsed(reason: str) -> Findings:
    return Findings(status=Status.MALFORMED, parse=False, detail=reason)


def without_trace(outcome: NoTrace, *, trusted_harness: bool) -> Findings:
    """Of a design that left no samples: what is unknown, because our time ran out, is not held against it."""
    known = outcome.certain or outcome.compiled
    judged = outcome.status in (Status.SCORED, Status.MALFORMED)
    return Findings(
        status=outcome.status,
        compile=outcome.compiled if known else None,
        ports=outcome.ports if known else None,
        match=0.0 if judged else None,
        full=False if judged else None,
        trusted_harness=trusted_harness,
        detail=outcome.detail,
        certain=outcome.certain,
    )


def judgement(findings: Findings, ladder: LadderConfig) -> Judgement:
    trainable = findings.status in (Status.SCORED, Status.MALFORMED)
    return Judgement(
        status=findings.status,
        reward=climbed(findings, ladder) if trainable else 0.0,
        components=findings.components,
        detail=findings.detail,
        certain=findings.certain,
    )


def climbed(findings: Findings, ladder: LadderConfig) -> float:
    """The value of the highest rung reached."""
    if not findings.parse:
        return 0.0
    if not findings.compile:
        return ladder.parse
    if not findings.ports:
        return ladder.compile
    if not findings.full:
        return ladder.ports + ladder.partial * (findings.partial or 0.0)
    reached = ladder.full
    if ladder.formal is not None:
        if not findings.formal:
            return reached
        reached = ladder.formal
    return reached + (ladder.cost or 0.0) * (findings.cost or 0.0)


def baseline(expected: Trace) -> float:
    """The largest fraction of samples in which a design with constant outputs agrees with the reference.

    Tried are all zeros, all ones, each bit's most frequent value, and the rows seen most often, with their unknown bits
    filled from the most frequent values.
    """
    rows = expected.rows
    usual = "".join(max("01z", key=Counter(column).__getitem__) for column in zip(*rows, strict=True))
    often = Counter(rows).most_common()
    tried = {"0" * expected.width, "1" * expected.width, usual}
    tried |= {
        "".join(other if bit == UNKNOWN else bit for bit, other in zip(row, usual, strict=True))
        for row, _ in often[:CANDIDATES]
    }
    known = {row: count for row, count in often if UNKNOWN not in row}
    unknown = [(row, count) for row, count in often if UNKNOWN in row]
    return max(
        known.get(row, 0) + sum(count for want, count in unknown if row_agrees(row, want)) for row in tried
    ) / len(rows)
