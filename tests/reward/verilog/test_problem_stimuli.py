"""Stimuli of our own: what a reference alone says about where to look."""

import shutil

import pytest

from reward.config import RewardConfig, VerilogConfig
from reward.messages import Status, VerifyRequest
from reward.verilog.constants import constants_of
from reward.verilog.design import parse_design
from reward.verilog.interface import read_interface
from reward.verilog.stimuli import stimuli_for
from reward.verilog.verifier import VerilogVerifier

needs_tools = pytest.mark.skipif(
    shutil.which("iverilog") is None or shutil.which("bwrap") is None, reason="iverilog or bubblewrap is not installed"
)


def judge(reference: str, response: str, seed: int | None = None):
    verifier = VerilogVerifier(RewardConfig(verilog=VerilogConfig(seed=seed)))
    fields = {"reference_source": reference, "top_module": "m", "testbench": None}
    (verdict,) = verifier.verify([VerifyRequest(id="1", verifier="verilog", response=response, reference=fields)])
    verifier.close()
    return verdict


def test_constants_are_the_literals_and_their_neighbours():
    """Sized, based, signed and plain literals count; those with x, real numbers and the digits of names do not."""
    source = "module m(input [31:0] a, output y); wire b9 = a == 12'sh_f0; assign y = b9 ^ (a > 500) ^ (a === 4'bx1);"
    found = constants_of(parse_design(source + " endmodule", "m"))
    assert {239, 240, 241, 499, 500, 501} <= set(found)
    assert 9 not in found


def test_a_wide_input_meets_every_constant():
    """Each literal of the reference is given to each input it fits, whatever the seed."""
    interface = read_interface("module m(input [31:0] a, input [3:0] b, output y); assign y = a[0]; endmodule", "m")
    vectors = stimuli_for(interface, cycles=1, vectors=8, constants=(0xDEADBEEF,), seed=3).vectors
    assert any(vector.startswith(format(0xDEADBEEF, "032b")) for vector in vectors)


@needs_tools
def test_a_counter_is_watched_until_its_upper_bits_move():
    """256 cycles show eight bits of ten; the list grows until all have been 0 and 1."""
    head = "module m(input clk, input reset, output reg [9:0] q); always @(posedge clk) if (reset) q <= 0; else q <= "
    right, seven = head + "q + 1; endmodule", head + "{3'b0, q[6:0] + 7'd1}; endmodule"
    assert judge(right, right).reward == 1.0
    assert judge(right, seven).reward == 0.0


@needs_tools
def test_a_reference_that_never_moves_judges_nothing():
    """A stuck design would pass, so it is an error of the reference and says what to give."""
    head = "module m(input clk, input reset, output reg q); reg [30:0] c; "
    slow = head + "always @(posedge clk) begin c <= reset ? 0 : c + 1; q <= reset ? 0 : c[30]; end endmodule"
    verdict = judge(slow, head + "always @(posedge clk) q <= 0; endmodule")
    assert (verdict.status, verdict.reward) == (Status.ERROR, 0.0)
    assert "give a testbench" in verdict.detail


@needs_tools
def test_a_constant_is_right_where_every_input_was_tried():
    """`assign y = 0` is an answer to itself."""
    zero = "module m(input [3:0] a, output y); assign y = 1'b0; endmodule"
    assert judge(zero, zero).reward == 1.0


def test_stimuli_are_a_secret_of_the_service():
    """Another seed gives another list; the same seed the same."""
    interface = read_interface(
        "module m(input clk, input d, output reg q); always @(posedge clk) q <= d; endmodule", "m"
    )
    lists = [stimuli_for(interface, cycles=64, vectors=1, seed=seed).vectors for seed in ("a", "a", "b")]
    assert lists[0] == lists[1] != lists[2]
