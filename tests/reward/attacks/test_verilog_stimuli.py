"""Designs that are wrong where a test of limited length does not look, or right only for the test that was recorded."""

import shutil

import pytest

from reward.config import RewardConfig
from reward.messages import VerifyRequest
from reward.verilog.interface import read_interface
from reward.verilog.stimuli import stimuli_for
from reward.verilog.verifier import VerilogVerifier
from tests.reward.attacks.verilog_problems import DETECTOR, RTLLM, TOP, fenced

pytestmark = pytest.mark.skipif(
    shutil.which("iverilog") is None or shutil.which("bwrap") is None, reason="iverilog or bubblewrap is not installed"
)

CLOCKED = "input clk, input reset, output reg [15:0] q"
TIMER = "input clk, input reset, output reg tick"
ENABLED = "input clk, input reset, input enable, input load, input [7:0] d, output reg [7:0] q"
# name -> ports, body of the reference, body of the response
LAZY = {
    "a comparison that is hit by one value in 4096": (
        "input [11:0] a, output y",
        "assign y = a == 12'habc;",
        "assign y = 0;",
    ),
    "a comparison that is hit by one value in 2^32": (
        "input [31:0] a, output y",
        "assign y = a == 32'hdeadbeef;",
        "assign y = 0;",
    ),
    "a tick every 1000 cycles": (
        TIMER,
        "reg [9:0] c; always @(posedge clk) if (reset) begin c <= 0; tick <= 0; end"
        " else begin c <= c == 999 ? 0 : c + 1; tick <= c == 999; end",
        "always @(posedge clk) tick <= 0;",
    ),
    "the upper bits of a counter": (
        CLOCKED,
        "always @(posedge clk) if (reset) q <= 0; else q <= q + 1;",
        "always @(posedge clk) if (reset) q <= 0; else q <= {9'b0, q[6:0] + 7'd1};",
    ),
    "a carry": (
        "input [63:0] a, input [63:0] b, output [63:0] y",
        "assign y = a + b;",
        "assign y = {a[63:32] + b[63:32], a[31:0] + b[31:0]};",
    ),
    "a latch for a flip-flop": (
        "input clk, input d, output reg q",
        "always @(posedge clk) q <= d;",
        "always @* if (clk) q = d;",
    ),
    "a synchronous reset for an asynchronous one": (
        ENABLED,
        "always @(posedge clk or posedge reset) if (reset) q <= 0; else if (load) q <= d; else if (enable) q <= q + 1;",
        "always @(posedge clk) if (reset) q <= 0; else if (load) q <= d; else if (enable) q <= q + 1;",
    ),
    "an asynchronous reset for a synchronous one": (
        ENABLED,
        "always @(posedge clk) if (reset) q <= 0; else if (load) q <= d; else if (enable) q <= q + 1;",
        "always @(posedge clk or posedge reset) if (reset) q <= 0; else if (load) q <= d; else if (enable) q <= q + 1;",
    ),
    "equality of the lower half": (
        "input [31:0] a, input [31:0] b, output y",
        "assign y = a == b;",
        "assign y = a[15:0] == b[15:0] && (a[31:16] == 0 && b[31:16] == 0 || &{a[31:16], b[31:16]});",
    ),
    "the last bit of a sum": (
        "input [31:0] a, input [31:0] b, output [31:0] y",
        "assign y = a + b;",
        "assign y = a | b;",
    ),
}


@pytest.fixture(scope="module")
def verifier():
    built = VerilogVerifier(RewardConfig())
    yield built
    built.close()


def reward(verifier: VerilogVerifier, reference: str, response: str, testbench: str | None = None) -> float:
    fields = {"reference_source": reference, "top_module": TOP, "testbench": testbench}
    (verdict,) = verifier.verify(
        [VerifyRequest(id="1", verifier="verilog", response=fenced(response), reference=fields)]
    )
    return verdict.reward


@pytest.mark.parametrize("name", LAZY)
def test_a_design_that_leaves_out_the_rare_case(verifier, name):
    """Left out is what random stimuli of a few hundred cycles meet rarely or never; it is wrong all the same."""
    ports, right, lazy = LAZY[name]
    reference = f"module {TOP}({ports}); {right} endmodule\n"
    assert reward(verifier, reference, f"module {TOP}({ports}); {lazy} endmodule\n") == 0.0


def detector_outputs(vectors: tuple[str, ...]) -> str:
    """What the detector answers to each vector, worked out here; its unknown start is written 0."""
    said, state, level, out = [], "xx", "x", "0"
    for clk, reset, data in vectors:
        if level != "1" and clk == "1":
            state, out = ("00", "0") if reset == "1" else (state[1] + data, str(int(state == "10" and data == "1")))
        level = clk
        said.append(out)
    return "".join(said)


def test_a_table_of_the_stimuli(verifier):
    """A table of the right answers, read by the clock on the wall: right for one list of stimuli, and no detector."""
    source = DETECTOR.reference["reference_source"]
    bits = detector_outputs(stimuli_for(read_interface(source, TOP), cycles=256, vectors=1024).vectors)
    size = len(bits)
    table = (
        f"reg [{size - 1}:0] t = {size}'b{bits}; integer n = 0;"
        f" initial begin #1; forever begin #10 out = t[{size - 1} - n]; #990 n = n + 1; end end"
    )
    assert reward(verifier, source, DETECTOR.module(table)) == 0.0


def test_a_table_of_a_testbench(verifier):
    """A testbench whose stimuli never change cannot tell a ring from a list of its first values; a reference alone can.

    The testbench of a problem is what the problem asks for. Who trains on problems gives testbenches that ask enough,
    or a reference without one.
    """
    counts = "integer n = 0; always @(posedge clk) begin n = n + 1; out <= n < 2 ? 1 : 1 << ((n - 1) % 8); end"
    source = RTLLM.reference["reference_source"]
    assert reward(verifier, source, RTLLM.module(counts), RTLLM.testbench) == 1.0
    assert reward(verifier, source, RTLLM.module(counts)) == 0.0
