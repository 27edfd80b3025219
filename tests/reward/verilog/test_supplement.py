"""Proof and cost: asked only where the ladder asks and the design passed, and a difference is believed when seen."""

import shutil

import pytest

from reward.config import LadderConfig, RewardConfig, VerilogConfig
from reward.messages import VerifyRequest
from reward.verilog.formal import Outcome, Proof
from reward.verilog.verifier import VerilogVerifier

pytestmark = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in ("iverilog", "bwrap", "yosys")),
    reason="iverilog, bubblewrap or yosys is not installed",
)

# our stimuli hardly ever hit one value of 2**16
REFERENCE = "module m(input [15:0] a, output y); assign y = a[0] ^ (a == {4'd1, 4'd2, 4'd3, 4'd4}); endmodule"
BLIND = REFERENCE.replace(" ^ (a == {4'd1, 4'd2, 4'd3, 4'd4})", "")


def judge(response: str, ladder: LadderConfig, prover=None, cells=None):
    """One verdict, with the prover or the cell counter replaced where given."""
    verifier = VerilogVerifier(RewardConfig(deadline_s=30.0, verilog=VerilogConfig(ladder=ladder)))
    if prover is not None:
        verifier._supplement._prover.prove = prover
    if cells is not None:
        verifier._supplement._synthesis.cells = cells
    fields = {"reference_source": REFERENCE, "top_module": "m", "testbench": None}
    (verdict,) = verifier.verify([VerifyRequest(id="1", verifier="verilog", response=response, reference=fields)])
    verifier.close()
    return verdict


def says(outcome: Outcome, *vectors: str):
    return lambda *arguments: Proof(outcome=outcome, counterexample=vectors or None, detail="so it is")


FORMAL = LadderConfig(ports=0.1, full=0.8, formal=0.9, cost=0.1)


def test_a_real_counterexample():
    """yosys finds what the stimuli miss: the design is not full, and the detail shows the input."""
    assert judge(BLIND, LadderConfig()).reward == 1.0
    verdict = judge(BLIND, FORMAL)
    assert verdict.reward == pytest.approx(0.1)
    assert (verdict.components["full"], verdict.components["formal"]) == (0.0, 0.0)
    assert format(0x1234, "016b") in verdict.detail


@pytest.mark.parametrize("outcome", [Outcome.EQUAL, Outcome.EQUAL_TO_DEPTH])
def test_equal_climbs(outcome):
    """A proof, bounded or not, is the formal rung; cost comes on top."""
    verdict = judge(REFERENCE, FORMAL, says(outcome), lambda design, deadline: 7)
    assert verdict.reward == pytest.approx(1.0)
    assert (verdict.components["formal"], verdict.components["cost"]) == (1.0, 1.0)


@pytest.mark.parametrize(
    "prover", [says(Outcome.UNDECIDED), says(Outcome.DIFFERENT), says(Outcome.DIFFERENT, "0" * 16, "1" * 16)]
)
def test_what_is_not_seen_does_not_count(prover):
    """Undecided, or different without inputs or with inputs under which our simulation sees no difference: full."""
    verdict = judge(REFERENCE, FORMAL, prover)
    assert verdict.reward == pytest.approx(0.8)
    assert "formal" not in verdict.components


@pytest.mark.parametrize(("cells", "share"), [((10, 20), 0.5), ((10, 5), 1.0), ((0, 0), 1.0), ((3, 0), 1.0)])
def test_cost(cells, share):
    """Cells of the reference over cells of the design, never more than 1."""
    ladder = LadderConfig(full=0.5, cost=0.5)
    twice = REFERENCE.replace("a ==", "(a & a) ==")
    verdict = judge(twice, ladder, cells=lambda design, deadline: cells["( a & a )" in design.text])
    assert verdict.components["cost"] == share
    assert verdict.reward == pytest.approx(0.5 + 0.5 * share)


def test_uncountable_cells_cost_nothing():
    """Where one of the two cannot be counted, there is no component and nothing on top."""
    verdict = judge(REFERENCE, LadderConfig(full=0.5, cost=0.5), cells=lambda design, deadline: None)
    assert verdict.reward == 0.5
    assert "cost" not in verdict.components


def test_nothing_is_asked_of_a_wrong_design_or_by_a_ladder_without():
    """yosys runs after a full pass only, and only where a rung names it."""

    def unwanted(*arguments):
        raise AssertionError("yosys was asked")

    assert judge(REFERENCE.replace("==", "!="), FORMAL, unwanted, unwanted).reward == pytest.approx(0.1)
    assert judge(REFERENCE, LadderConfig(), unwanted, unwanted).reward == 1.0
