"""What a design earns, from hand-made findings and traces."""

import pytest

from reward.config import LadderConfig
from reward.messages import Status
from reward.verilog.ladder import Findings, baseline, judgement, unparsed, without_trace
from reward.verilog.traces import NoTrace, Trace

STEEP = LadderConfig(parse=0.05, compile=0.1, ports=0.15, partial=0.2, full=0.7, formal=0.8, cost=0.2)
RAN = {"compile": True, "ports": True, "trusted_harness": True}


@pytest.mark.parametrize(
    ("findings", "reward"),
    [
        (Findings(parse=False, status=Status.MALFORMED), 0.0),
        (Findings(compile=False, ports=False, status=Status.MALFORMED), 0.05),
        (Findings(compile=True, ports=False, status=Status.MALFORMED), 0.1),
        (Findings(**RAN, match=0.5, baseline=0.75, full=False), 0.15),
        (Findings(**RAN, match=0.75, baseline=0.5, full=False), 0.15 + 0.2 * 0.5),
        (Findings(**RAN, match=0.9, full=False), 0.15),
        (Findings(**RAN, match=1.0, baseline=0.5, full=True), 0.7),
        (Findings(**RAN, match=1.0, baseline=0.5, full=True, cost=1.0), 0.7),
        (Findings(**RAN, match=1.0, baseline=0.5, full=True, formal=True), 0.8),
        (Findings(**RAN, match=1.0, baseline=0.5, full=True, formal=True, cost=0.5), 0.9),
        (Findings(**RAN, match=1.0, baseline=1.0, full=False, formal=False), 0.15),
    ],
)
def test_the_first_rung_missed_stops_the_climb(findings, reward):
    """Each rung is worth its value and needs all before it; a formal proof that was asked for and not had ends it."""
    assert judgement(findings, STEEP).reward == pytest.approx(reward)


def test_by_default_only_a_full_pass_earns():
    """1 for a pass, 0 for everything else."""
    default = LadderConfig()
    assert judgement(Findings(**RAN, match=0.99, baseline=0.1, full=False), default).reward == 0.0
    assert judgement(Findings(**RAN, match=1.0, baseline=0.1, full=True), default).reward == 1.0


@pytest.mark.parametrize("status", [Status.TIMEOUT, Status.RESOURCE, Status.ERROR])
def test_what_is_not_judged_earns_nothing(status):
    """A status that says nothing about the response is never turned into part of a reward."""
    assert judgement(Findings(status=status, compile=True, ports=True), STEEP).reward == 0.0


def test_components_are_what_is_known():
    """Nothing is invented for what was not looked at; `partial` follows from match and baseline."""
    assert judgement(unparsed("why"), STEEP).components == {"parse": 0.0}
    assert judgement(Findings(**RAN, match=0.75, baseline=0.5, full=False), STEEP).components == {
        "parse": 1.0,
        "compile": 1.0,
        "ports": 1.0,
        "match": 0.75,
        "baseline": 0.5,
        "partial": 0.5,
        "full": 0.0,
        "trusted_harness": 1.0,
    }
    out_of_time = NoTrace(status=Status.TIMEOUT, detail="", compiled=False, ports=False, certain=False)
    assert judgement(without_trace(out_of_time, trusted_harness=True), STEEP).components == {
        "parse": 1.0,
        "trusted_harness": 1.0,
    }


@pytest.mark.parametrize(
    ("rows", "best"),
    [
        (["0", "1", "1", "1"], 0.75),  # stuck at 1
        (["00", "00", "11"], 2 / 3),  # stuck at 0
        (["01", "01", "10"], 2 / 3),  # a constant that is neither
        (["0x", "x1", "11"], 2 / 3),  # 01 agrees with the first two, 11 with the last two
        (["xx", "xx"], 1.0),
        (["zz", "zz", "01"], 2 / 3),
        (["01", "10", "00", "11"], 0.25),
        (["110", "101", "011", "111"], 0.25),  # the row that was never most frequent in each bit ties
        (["0x1", "011", "001", "100"], 2 / 3 * 0.75),  # 011 or 001: two rows each
    ],
)
def test_baseline(rows, best):
    """The best constant row, found by hand; unknown bits agree with everything."""
    assert baseline(Trace.of(rows)) == pytest.approx(best)
