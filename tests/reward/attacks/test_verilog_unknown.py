"""Designs that live on what a testbench does not ask: unknown outputs, driven inputs, parameters left out."""

import shutil
from dataclasses import replace

import pytest

from reward.config import RewardConfig
from reward.messages import Status, Verdict, VerifyRequest
from reward.verilog.verifier import VerilogVerifier
from tests.reward.attacks.verilog_problems import (
    ADDER,
    RTLLM,
    RTLLM_TESTBENCH,
    STEPPER,
    STEPPER_TESTBENCH,
    Problem,
    fenced,
)

pytestmark = pytest.mark.skipif(
    shutil.which("iverilog") is None or shutil.which("bwrap") is None, reason="iverilog or bubblewrap is not installed"
)

# `!=` with an unknown side is unknown, which an `if` takes for false
FORGIVING = RTLLM_TESTBENCH.replace(
    "error = (out == data[i]) ? error : error + 1;", "if (out != data[i]) error = error + 1;"
)
TWICE = FORGIVING.replace(
    "TopModule ring_inst", "wire [7:0] b; TopModule second(.clk(clk), .reset(reset), .out(b)); TopModule ring_inst"
).replace("out != data[i]", "out != data[i] || out != b")
# inputs that are nets, which a design could pull on
ON_NETS = (
    STEPPER_TESTBENCH.replace("reg clk = 0, reset = 1;", "reg c = 0, r = 1; wire clk = c, reset = r;")
    .replace("clk = ~clk", "c = ~c")
    .replace("#12 reset = 0", "#12 r = 0")
)
UNKNOWN = {
    "never driven": "",
    "unknown": "assign out = 'x;",
    "known at the start only": "reg [7:0] o = 1; initial #1 o = 'x; assign out = o;",
    "one bit known": "assign out[0] = 1'b1;",
}
DRIVEN = {
    "by an assignment": "assign reset = 0;",
    "by a gate": "buf (reset, 1'b0);",
    "by an instance": "pull p(reset);",
    "by the input of an instance": "push p(reset);",
    "by an unnamed connection": "wire o; pull p(.*); assign o = 0;",
}


@pytest.fixture(scope="module")
def verifier():
    built = VerilogVerifier(RewardConfig())
    yield built
    built.close()


def judge(verifier: VerilogVerifier, problem: Problem, response: str, testbench: str | None) -> Verdict:
    reference = {**problem.reference, "testbench": testbench}
    request = VerifyRequest(id="1", verifier="verilog", response=fenced(response), reference=reference)
    (verdict,) = verifier.verify([request])
    return verdict


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_outputs_are_no_answer(verifier, name):
    """A testbench that an unknown output cannot fail gives it no reward, in playback."""
    wrong = RTLLM.module(UNKNOWN[name]).replace("output reg", "output")
    verdict = judge(verifier, RTLLM, wrong, FORGIVING)
    assert (verdict.reward, verdict.status) == (0.0, Status.SCORED)
    assert verdict.components["trusted_harness"] == 1.0


@pytest.mark.parametrize("testbench", [FORGIVING, TWICE])
def test_outputs_unknown_where_nobody_looks_are_fine(verifier, testbench):
    """A design that is unknown until its first clock edge, unlike the reference, passes: nobody looks there."""
    early = replace(RTLLM, honest=f"initial out = 0; {RTLLM.honest}")
    verdict = judge(verifier, early, RTLLM.module(RTLLM.honest), testbench)
    assert verdict.reward == 1.0
    assert verdict.components["match"] == 1.0


def test_floating_outputs_beside_a_bus(verifier):
    """That the reference lets go of one output is no leave for another to float."""
    bus = replace(
        RTLLM,
        ports="input clk, input reset, output reg [7:0] out, output [7:0] bus",
        honest=f"assign bus = reset ? 8'bz : out; {RTLLM.honest}",
    )
    testbench = FORGIVING.replace(".out(out)", ".out(out), .bus(bus)").replace("wire [7:0] out", "wire [7:0] out, bus")
    assert judge(verifier, bus, bus.module(bus.honest), testbench).reward == 1.0
    early = bus.module(
        "assign bus = reset ? 8'bz : out; reg [7:0] o; initial begin o = 0; #1 o = 'z; end assign out = o;"
    )
    for wrong in (early, early.replace("o = 0", "o = 8'haa; #1 o = 8'h55")):
        verdict = judge(verifier, bus, wrong.replace("output reg", "output"), testbench)
        assert (verdict.reward, verdict.status) == (0.0, Status.SCORED), verdict.detail


def test_never_driven_outputs_fail_in_one_simulation(verifier):
    """The same where testbench and design share a simulation; such a testbench still tells right from wrong."""
    silent = judge(verifier, RTLLM, RTLLM.module("").replace("output reg", "output"), TWICE)
    assert (silent.reward, silent.components["trusted_harness"]) == (0.0, 0.0)
    assert "never known" in silent.detail
    assert judge(verifier, RTLLM, RTLLM.module(RTLLM.wrong), TWICE).reward == 0.0


@pytest.mark.parametrize("name", DRIVEN)
def test_a_design_that_drives_its_inputs(verifier, name):
    """Held in no reset, reference and design would both be unknown, and equal; the reference never sees it."""
    others = "module pull(output reset); assign reset = 0; endmodule module push(input i); assign i = 0; endmodule\n"
    body = f"{DRIVEN[name]} assign n = 'x;"
    verdict = judge(verifier, STEPPER, others + STEPPER.module(body).replace("output reg", "output"), ON_NETS)
    assert (verdict.reward, verdict.status) == (0.0, Status.SCORED)


@pytest.mark.parametrize("direction", ["inout", "output"])
def test_a_design_whose_inputs_are_none(verifier, direction):
    """The same through a port of another direction."""
    body = STEPPER.module("assign reset = 0; assign n = 'x;").replace("output reg", "output")
    verdict = judge(verifier, STEPPER, body.replace("input reset", f"{direction} reset"), ON_NETS)
    assert (verdict.reward, verdict.status) == (0.0, Status.MALFORMED)


def test_parameters_count(verifier):
    """A design that does not listen to the parameters its testbench gives is wrong; one that does is right."""
    assert judge(verifier, STEPPER, STEPPER.module(STEPPER.honest), ON_NETS).reward == 1.0
    deaf = STEPPER.module(STEPPER.honest.replace("STEP", "1"))
    assert judge(verifier, STEPPER, deaf, ON_NETS).reward == 0.0
    assert judge(verifier, STEPPER, deaf, STEPPER_TESTBENCH).reward == 0.0


def test_the_name_of_a_fault_in_a_design_is_no_fault(verifier):
    """A design that does not compile stays wrong, whatever words it makes the compiler say."""
    verdict = judge(verifier, STEPPER, STEPPER.module("always @* n = bad_alloc;"), STEPPER_TESTBENCH)
    assert (verdict.reward, verdict.status) == (0.0, Status.MALFORMED)


def test_a_timescale_is_part_of_a_response(verifier):
    """Beside a testbench delays count in the unit of the source; equal designs under other units are judged apart."""
    slow = STEPPER.module(STEPPER.honest.replace("n + STEP", "#1 n + STEP"))
    assert judge(verifier, STEPPER, f"`timescale 1us/1us\n{slow}", STEPPER_TESTBENCH).reward == 0.0
    assert judge(verifier, STEPPER, f"`timescale 1ps/1ps\n{slow}", STEPPER_TESTBENCH).reward == 1.0


def test_a_variable_of_the_testbench_outside_modules(verifier):
    """Seen by every module without a path, it is out of bounds for a design; testbenches with one work."""
    open_one = STEPPER_TESTBENCH.replace("module tb_step;", "integer error = 0;\nmodule tb_step;")
    open_one = open_one.replace(", n_ref; integer error = 0;", ", n_ref;")
    assert judge(verifier, STEPPER, STEPPER.module(STEPPER.honest), open_one).reward == 1.0
    reset = STEPPER.module(
        "always @(posedge clk) begin n <= 0; #1; error = 0; end always @(n) error = 0;"
        " initial begin n = 0; forever #1 error = 0; end"
    )
    verdict = judge(verifier, STEPPER, reset, open_one)
    assert (verdict.reward, verdict.status) == (0.0, Status.MALFORMED)


def test_a_reference_shares_no_simulation(verifier):
    """One that learns the simulation's secret name, and prints samples for all, does not reach another's reference."""
    forging = (
        'string m; initial begin m = $sformatf("%m"); m = m.substr(0, 16);'
        ' repeat (1024) $fdisplay(1, "%s:%b", m, 8\'d0); $finish(0); end endmodule'
    )
    honest = ADDER.reference["reference_source"]
    right = ADDER.module("always @* if (sel) y = a + b; else y = a ^ b;")
    zero = ADDER.module("initial y = 0;")
    cases = [
        (honest.replace("endmodule", forging), ADDER.solution),
        (honest + "// fresh\n", fenced(right)),
        (honest + "// fresh\n", fenced(zero)),
    ]
    requests = [
        VerifyRequest(
            id=str(index),
            verifier="verilog",
            response=response,
            reference={**ADDER.reference, "reference_source": source},
        )
        for index, (source, response) in enumerate(cases)
    ]
    assert [verdict.reward for verdict in verifier.verify(requests)][1:] == [1.0, 0.0]
