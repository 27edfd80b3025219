"""Designs beside testbenches that cannot be taken apart and let unknown outputs pass.

`if (out != wanted) error` is no error where `out` is unknown. A testbench that gives the design parameters, or races
with it, shares a simulation with it; nothing that a design leaves unknown, and no input it drives, may gain there.
"""

import shutil

import pytest

from reward.config import RewardConfig
from reward.messages import Status, Verdict, VerifyRequest
from reward.verilog.clock import Clock
from reward.verilog.verifier import VerilogVerifier
from tests.reward.attacks.verilog_problems import STEPPER, STEPPER_TESTBENCH, TOP, fenced

pytestmark = pytest.mark.skipif(
    shutil.which("iverilog") is None or shutil.which("bwrap") is None, reason="iverilog or bubblewrap is not installed"
)

WITH_PARAMETERS = STEPPER_TESTBENCH.replace("n !== n_ref", "n != n_ref")
BY_POSITION = WITH_PARAMETERS.replace("#(.STEP(3))", "#(3)")
BY_DEFPARAM = WITH_PARAMETERS.replace("#(.STEP(3))", "").replace(
    "always #5", "defparam dut.STEP = 3; defparam good1.STEP = 3; always #5"
)
TWICE = """`timescale 1ns/1ps
module tb_step;
  reg clk = 0, reset = 1; wire [7:0] n, m; integer error = 0, edges = 0;
  TopModule dut(.clk(clk), .reset(reset), .n(n));
  TopModule two(.clk(clk), .reset(reset), .n(m));
  initial begin
    repeat (3) begin #5 clk = 1; #5 clk = 0; end
    repeat (20) begin
      #5 reset = 0; clk = 1; #1 reset = 0;
      edges = edges + 1;
      if (n != edges || m != edges) error = error + 1;
      #4 clk = 0;
    end
    if (error == 0) $display("===========Your Design Passed===========");
    else $display("===========Failed=========== %0d", error);
    $finish;
  end
endmodule
"""
# the reset goes away at the edge that the design waits for: one that gets it through a buffer counts one less
RACE = """`timescale 1ns/1ps
module tb_step;
  reg clk = 0; wire reset; wire [7:0] n, m; integer error = 0, edges = 0; reg [7:0] count = 0;
  TopModule dut(.clk(clk), .reset(reset), .n(n));
  TopModule two(.clk(clk), .reset(reset), .n(m));
  assign reset = count < 4;
  always @(posedge clk) count = count + 1;
  initial begin
    repeat (20) begin
      #5 clk = 1;
      #1 if (count >= 4) begin if (n != edges || m != edges) error = error + 1; edges = edges + 1; end
      #4 clk = 0;
    end
    if (error == 0) $display("===========Your Design Passed===========");
    else $display("===========Failed=========== %0d", error);
    $finish;
  end
endmodule
"""
TESTBENCHES = {
    "parameters": WITH_PARAMETERS,
    "parameters by position": BY_POSITION,
    "parameters by defparam": BY_DEFPARAM,
    "several instances": TWICE,
    "race": RACE,
}
UNKNOWN = {
    "never driven": "",
    "unknown": "assign n = 'x;",
    "floating": "assign n = 'z;",
    "known at the start only": "reg [7:0] o = 1; initial #1 o = 'x; assign n = o;",
    "one bit known": "assign n[0] = 1'b1;",
    "known in turns": "reg [7:0] o = 1; always @(posedge clk) o <= o === 8'bx ? 8'd9 : 'x; assign n = o;",
    "known while nobody looks": "reg [7:0] o; always @* begin o = clk ? 8'd7 : 'x; #1 o = 'x; end assign n = o;",
    "known if the step is not 3": "assign n = STEP == 3 ? 8'bx : 8'd0;",
    "out by another name": "wire [7:0] o; reg [7:0] n = 0; always @(posedge clk) n <= n + 1;",
}
DRIVEN = {
    "with the testbench's step only": "generate if (STEP == 3) assign reset = 0; endgenerate assign n = 'x;",
    "always": "assign reset = 0; assign n = 'x;",
    "by a helper": "pull p(reset); assign n = 'x;",
}
HELPERS = "module pull(output reset); assign reset = 0; endmodule\n"


@pytest.fixture(scope="module")
def verifier():
    built = VerilogVerifier(RewardConfig())
    yield built
    built.close()


def slow_but(*names: str) -> list:
    """All forms of testbenches; those not named only where there is time."""
    return [pytest.param(name, marks=() if name in names else pytest.mark.slow) for name in TESTBENCHES]


def judge(verifier: VerilogVerifier, response: str, testbench: str, reference: str | None = None) -> Verdict:
    fields = {**STEPPER.reference, "testbench": testbench}
    if reference is not None:
        fields["reference_source"] = reference
    request = VerifyRequest(id="1", verifier="verilog", response=fenced(response), reference=fields)
    (verdict,) = verifier.verify([request])
    return verdict


def silent(body: str) -> str:
    """The stepper with a body that need not drive the output."""
    text = STEPPER.module(body).replace("output reg", "output")
    return text.replace("output [7:0] n", "output [7:0] .n(o)") if "wire [7:0] o;" in body else text


@pytest.mark.parametrize("form", TESTBENCHES)
def test_right_and_wrong(verifier, form):
    """Such a testbench still tells right from wrong, and its verdicts say that the design ran beside it."""
    right = judge(verifier, STEPPER.module(STEPPER.honest), TESTBENCHES[form])
    wrong = judge(verifier, STEPPER.module(STEPPER.wrong), TESTBENCHES[form])
    assert (right.reward, right.components["trusted_harness"]) == (1.0, 0.0), right.detail
    assert (wrong.reward, wrong.status) == (0.0, Status.SCORED)


def test_no_wrapper_decides_a_race(verifier):
    """The form in which the reference passes is taken: behind a buffer where that changes nothing, else without one."""
    problems = verifier._examiner.problems
    for form, one_way in (("several instances", True), ("race", False)):
        problem = problems.get({**STEPPER.reference, "testbench": TESTBENCHES[form]}, Clock(10.0))
        joint = problems.joint(problem, Clock(10.0))
        assert (joint.wrapper.one_way, joint.knowing) == (one_way, True)


@pytest.mark.parametrize("name", UNKNOWN)
@pytest.mark.parametrize("form", slow_but("parameters", "race"))
def test_unknown_outputs_are_no_answer(verifier, form, name):
    """Whatever a testbench says of an output that is unknown where the reference's is known."""
    verdict = judge(verifier, silent(UNKNOWN[name]), TESTBENCHES[form])
    assert verdict.reward == 0.0
    assert verdict.status in (Status.SCORED, Status.MALFORMED)


@pytest.mark.parametrize("name", DRIVEN)
@pytest.mark.parametrize("form", slow_but("parameters", "race"))
def test_driven_inputs_gain_nothing(verifier, form, name):
    """With the parameters that the testbench gives, not only with those of the reference."""
    nets = TESTBENCHES[form].replace("reg clk = 0, reset = 1;", "reg clk = 0, r = 1; wire reset = r;")
    nets = nets.replace("reset = 0;", "r = 0;")
    assert judge(verifier, STEPPER.module(STEPPER.honest), nets).reward == 1.0
    if name == "with the testbench's step only" and form in ("several instances", "race"):
        return  # they give none
    verdict = judge(verifier, HELPERS + silent(DRIVEN[name]), nets)
    assert verdict.reward == 0.0
    if form == "race":  # nothing else keeps the design from its inputs there
        assert verdict.status == Status.MALFORMED
        assert "drives its input reset" in verdict.detail


def test_unknown_where_the_reference_is_unknown(verifier):
    """Before its reset the reference is unknown too; a design that is so for a moment longer but in time is right."""
    late = STEPPER.honest.replace("n <= 0", "n <= #2 0")
    for testbench in TESTBENCHES.values():
        verdict = judge(verifier, STEPPER.module(late), testbench)
        assert verdict.reward == 1.0, verdict.detail


def test_ports_as_wide_as_a_parameter(verifier):
    """A width that the testbench sets is the design's, for ports in the heading and below it."""
    testbench = """
    module tb; reg [4:0] a = 0; wire [4:0] y; wire [2:0] z; integer error = 0;
      TopModule #(.W(5)) dut(.a(a), .y(y)); TopModule #(.W(3)) two(.a(a[2:0]), .y(z));
      initial begin
        repeat (32) begin #1 if (y != a + 5'd1 || z != a[2:0] + 3'd1) error = error + 1; a = a + 1; end
        if (error == 0) $display("Your Design Passed");
      end
    endmodule
    """
    heading = "module TopModule #(parameter W = 4, localparam L = W - 1)(input [L:0] a, output [L:0] y);"
    below = "module TopModule(a, y); parameter W = 4; localparam L = W - 1; input [L:0] a; output [L:0] y;"
    for start in (heading, below):
        reference = f"{start} assign y = a + 1; endmodule\n"
        assert judge(verifier, reference, testbench, reference).reward == 1.0
        for body in ("assign y = a;", "", "assign y = W == 5 ? a + 1 : 'x;", "assign y = W == 3 ? a + 1 : 'x;"):
            verdict = judge(verifier, f"{start} {body} endmodule\n", testbench, reference)
            assert (verdict.reward, verdict.status) == (0.0, Status.SCORED), (body, verdict.detail)


@pytest.mark.parametrize(
    ("reference", "why"),
    [
        (
            "module TopModule(input clk, input reset, inout [7:0] n); assign n = 1; endmodule",
            "neither input nor output",
        ),
        ("module TopModule(input clk, input reset, output real n); initial n = 1; endmodule", "no plain vector"),
        (
            "module TopModule #(parameter type T = logic)(input clk, input reset, output T n); assign n = 1; endmodule",
            "parameter T",
        ),
    ],
)
def test_references_that_nobody_can_watch(verifier, reference, why):
    """Ports through which both sides drive, or whose bits cannot be seen, are refused with the reason."""
    testbench = WITH_PARAMETERS.replace("verified_step", TOP) if "type" in reference else TWICE
    if "type" in reference:
        testbench = testbench.replace("#(.STEP(3))", "#(.T(logic))")
    verdict = judge(verifier, reference, testbench, reference)
    assert (verdict.status, verdict.reward) == (Status.ERROR, 0.0)
    assert why in verdict.detail
