"""Cells of designs small enough to count by hand."""

import shutil

import pytest

from reward.deadline import Deadline
from reward.sandbox import Sandbox
from reward.verilog.cost import Synthesis
from reward.verilog.design import parse_design

pytestmark = pytest.mark.skipif(
    shutil.which("yosys") is None or shutil.which("bwrap") is None, reason="yosys or bubblewrap is not installed"
)


@pytest.fixture(scope="module")
def synthesis():
    return Synthesis(Sandbox("bubblewrap"))


@pytest.mark.parametrize(
    ("body", "cells"),
    [
        ("assign y = a;", 0),
        ("assign y = a & b;", 1),
        ("assign y = (a & b) | (b & a);", 1),  # simplified first
        ("reg q; always @(posedge a) q <= b; assign y = q;", 1),
        ("wire w; n u(a, b, w); n v(w, b, y);", 2),  # both instances of the submodule
        ("reg [3:0] q; always @(posedge a) q <= {q[2:0], b}; assign y = q[3];", 4),
    ],
)
def test_cells(synthesis, body, cells):
    """One a gate and one a flip-flop, hierarchy flattened, after simplification."""
    source = (
        f"module m(input a, input b, output y); {body} endmodule"
        " module n(input a, input b, output y); assign y = a ^ b; endmodule"
    )
    assert synthesis.cells(parse_design(source, "m"), Deadline.after(20)) == cells


def test_no_number_where_yosys_has_none(synthesis):
    """A loop of gates that yosys' check refuses, or no time: None, no exception."""
    loop = "module m(input a, output y); assign y = ~(y & a); endmodule"
    assert synthesis.cells(parse_design(loop, "m"), Deadline.after(20)) is None
    plain = "module m(input a, output y); assign y = a; endmodule"
    assert synthesis.cells(parse_design(plain, "m"), Deadline.after(0)) is None
