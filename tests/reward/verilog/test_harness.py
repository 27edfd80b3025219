"""Problems with a testbench that judges by itself: honest designs pass, and tricks on the testbench fail.

Most tests run twice: with a testbench that is taken apart, and with one where a second instance of the design forces
both into one simulation.
"""

import shutil

import pytest

from reward.config import RewardConfig
from reward.messages import Status, VerifyRequest
from reward.verilog.testbench import read_verdict
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


# a second instance of the design: nobody can tell apart what each of them is fed
FORMS = {"split": TESTBENCH, "joint": TESTBENCH.replace("task pass", "TopModule top2(.clk(clk), .d(d));\n  task pass")}


@pytest.fixture(params=FORMS)
def testbench(request):
    return FORMS[request.param]


def judge(verifier, response: str, testbench: str, reference: str = REFERENCE):
    fields = {"reference_source": reference, "top_module": "TopModule", "testbench": testbench}
    (verdict,) = verifier.verify([VerifyRequest(id="1", verifier="verilog", response=response, reference=fields)])
    return verdict


@pytest.mark.parametrize(("form", "trusted"), [("split", 1.0), ("joint", 0.0)])
def test_right_and_wrong(verifier, form, trusted):
    """The testbench's count decides, and the verdict says whether the design ran beside it."""
    right = judge(verifier, RIGHT, FORMS[form])
    wrong = judge(verifier, RIGHT.replace("posedge", "negedge"), FORMS[form])
    assert (right.status, right.reward, right.components["trusted_harness"]) == (Status.SCORED, 1.0, trusted)
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
def test_attacks_on_the_testbench_gain_nothing(verifier, testbench, body):
    """Printing, ending, reading, calling, driving and instantiating what belongs to the testbench."""
    assert judge(verifier, HEAD + body + " endmodule", testbench).reward == 0.0


@pytest.mark.parametrize("name", ["RefModule", "tb", "stimulus", "good1", "top1"])
def test_helper_modules_with_names_of_the_testbench(verifier, testbench, name):
    """Redefining a module of the testbench changes nothing outside the design."""
    helper = f"module {name}(input clk, input d, output reg q); always @(posedge clk) q <= 0; endmodule "
    assert judge(verifier, helper + RIGHT, testbench).reward == 1.0
    assert judge(verifier, helper + HEAD + "always q = 0; endmodule", testbench).reward == 0.0


def test_a_reference_that_fails_its_own_testbench_is_an_error_of_ours(verifier):
    """So does a testbench without the wanted module, or without a top."""
    broken = TESTBENCH.replace("errors + 1", "errors + 1 + $bad_function")
    for testbench in (broken, TESTBENCH.replace("TopModule", "OtherModule"), "module x; endmodule", ""):
        verdict = judge(verifier, RIGHT, testbench=testbench)
        assert verdict.status == Status.ERROR
        assert verdict.detail


@pytest.mark.parametrize(
    ("printed", "passed"),
    [
        ("Mismatches: 0 in 20 samples\n", True),
        ("Mismatches: 1 in 20 samples\n", False),
        ("Mismatches: 0 in 0 samples\n", False),
        ("Mismatches: 0 in 20 samples\nMismatches: 3 in 20 samples\n", False),
        ("===========Your Design Passed===========\n", True),
        ("===========Failed===========\n", False),
        ("", False),
    ],
)
def test_read_verdict(printed, passed):
    """The last count, or the known word of success."""
    assert read_verdict(printed).passed == passed
