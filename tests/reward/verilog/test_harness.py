"""Problems with a testbench that judges by itself: honest designs pass, and tricks on the testbench fail."""

import shutil

import pytest

from reward.config import RewardConfig
from reward.messages import Status, VerifyRequest
from reward.verilog.harness import read_judgement
from reward.verilog.verifier import VerilogVerifier

pytestmark = pytest.mark.skipif(
    shutil.which("iverilog") is None or shutil.which("bwrap") is None, reason="iverilog or bubblewrap is not installed"
)

REFERENCE = "module RefModule(input clk, input d, output reg q); always @(posedge clk) q <= d; endmodule"
TESTBENCH = """`timescale 1ps/1ps
module stimulus(input clk, output reg d);
  initial begin repeat (40) @(posedge clk, negedge clk) d <= $urandom; $finish; end
endmodule
module tb;
  reg clk = 0; initial forever #5 clk = ~clk;
  wire d, q_ref, q_dut; integer errors = 0, clocks = 0;
  stimulus stim1(.clk(clk), .d(d));
  RefModule good1(.clk(clk), .d(d), .q(q_ref));
  TopModule top1(.clk(clk), .d(d), .q(q_dut));
  task pass; begin errors = 0; $display("Mismatches: 0 in 20 samples"); end endtask
  initial begin $dumpfile("wave.vcd"); $dumpvars(0, tb); end
  always @(posedge clk, negedge clk) begin
    clocks = clocks + 1;
    if (q_ref !== (q_ref ^ q_dut ^ q_ref)) errors = errors + 1;
  end
  final $display("Mismatches: %1d in %1d samples", errors, clocks);
endmodule
"""
HEAD = "module TopModule(input clk, input d, output reg q); "
RIGHT = HEAD + "always @(posedge clk) q <= d; endmodule"


@pytest.fixture(scope="module")
def verifier():
    built = VerilogVerifier(RewardConfig())
    yield built
    built.close()


def judge(verifier, response: str, testbench: str = TESTBENCH, reference: str = REFERENCE):
    fields = {"reference_source": reference, "top_module": "TopModule", "testbench": testbench}
    (verdict,) = verifier.verify([VerifyRequest(id="1", verifier="verilog", response=response, reference=fields)])
    return verdict


def test_right_and_wrong(verifier):
    """The testbench's count decides, and the verdict says whose word it is."""
    right = judge(verifier, RIGHT)
    wrong = judge(verifier, RIGHT.replace("posedge", "negedge"))
    assert (right.status, right.reward, right.components["trusted_harness"]) == (Status.SCORED, 1.0, 0.0)
    assert (wrong.status, wrong.reward) == (Status.SCORED, 0.0)
    assert 0.0 < wrong.components["match"] < 1.0


@pytest.mark.parametrize(
    "body",
    [
        'initial begin $display("Mismatches: 0 in 20 samples"); $finish; end',
        'initial $display("Mismatches: 0 in 20 samples");',
        'always @(posedge clk) $write("Mismatches: 0 in 20 samples\\n");',
        "initial q = tb.q_ref;",
        "always @* q = good1.q;",
        "always @* q = q_ref;",
        "initial tb.errors = 0;",
        "initial pass;",
        "initial pass();",
        "always @(posedge clk) tb.pass;",
        "initial force d = 0;",
        "assign d = 1'bx;",
        "assign clk = 1'b0;",
        "wire z; assign z = 0; tran(d, z);",
        "RefModule r(.clk(clk), .d(d), .q(w)); wire w; always @* q = w;",
        "always begin end",
        "initial forever q = 0;",
        "reg [7:0] errors, clocks; initial errors = 0;",
    ],
)
def test_attacks_on_the_testbench_gain_nothing(verifier, body):
    """Printing, ending, reading, calling, driving and instantiating what belongs to the testbench."""
    assert judge(verifier, HEAD + body + " endmodule").reward == 0.0


@pytest.mark.parametrize("name", ["RefModule", "tb", "stimulus", "good1", "top1"])
def test_helper_modules_with_names_of_the_testbench(verifier, name):
    """Redefining a module of the testbench changes nothing outside the design."""
    helper = f"module {name}(input clk, input d, output reg q); always @(posedge clk) q <= 0; endmodule "
    assert judge(verifier, helper + RIGHT).reward == 1.0
    assert judge(verifier, helper + HEAD + "always q = 0; endmodule").reward == 0.0


def test_a_reference_that_fails_its_own_testbench_is_an_error_of_ours(verifier):
    """So does a testbench without the wanted module, or without a top."""
    broken = TESTBENCH.replace("errors + 1", "errors + 1 + $bad_function")
    for testbench in (broken, TESTBENCH.replace("TopModule", "OtherModule"), "module x; endmodule", ""):
        verdict = judge(verifier, RIGHT, testbench=testbench)
        assert verdict.status == Status.ERROR
        assert verdict.detail


@pytest.mark.parametrize(
    ("printed", "reward"),
    [
        ("Mismatches: 0 in 20 samples\n", 1.0),
        ("Mismatches: 1 in 20 samples\n", 0.0),
        ("Mismatches: 0 in 0 samples\n", 0.0),
        ("Mismatches: 0 in 20 samples\nMismatches: 3 in 20 samples\n", 0.0),
        ("===========Your Design Passed===========\n", 1.0),
        ("===========Failed===========\n", 0.0),
        ("", 0.0),
    ],
)
def test_read_judgement(printed, reward):
    """The last count, or the known word of success."""
    assert read_judgement(printed).reward == reward
