"""Where in a response the design is."""

import time

import pytest

from reward.verilog.extract import extract_verilog

M = "module m(input a, output y); assign y = a; endmodule"
N = "module n; endmodule"


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (M, M),
        (f"Here you are: {M} That is all.", M),
        (f"```verilog\n{M}\n```", f"{M}\n"),
        (f"First\n```\n{N}\n```\nbut better\n```systemverilog\n{M}\n```\nbye", f"{M}\n"),
        (f"```verilog\n{M}\n```\nand a testbench\n```verilog\n{N}\n```", f"{M}\n"),
        (f"```verilog\n{M}", M),
        (f"<think>{N}</think>{M}", M),
        (f"```python\nprint(1)\n```\n{M}", M),
        ("no design here", None),
        ("module m(input a", None),
        ("", None),
        (f"<think>{M}</think> I give up", None),
        (f"```SystemVerilog\r\n{M}\r\n```\r\n", f"{M}\r\n"),
        (f"  ```verilog title=m.v\n{M}\n  ```", f"{M}\n  "),
        (f"```{M}\n```", f"{M}\n"),
        (f"```verilog {M}\n```", f"{M}\n"),
        (f"The module m below has one input (a).\n\n{M}\n\nThis module m works.", M),
        (f"This module is combinational: {M}", M),
        ("No module (sorry) and no endmodule", None),
        (f"\ufeff`timescale 1ns/1ps\n// the module\n{M} : m\nDone", f"`timescale 1ns/1ps\n// the module\n{M} : m"),
        (f"First:\n`define W 4\n{N}\nand then the module:\n{M}\nOK", f"`define W 4\n{N}\n{M}"),
        (f"```\n{M}\n```\nor shorter\n```\n{M}//2\n```", f"{M}//2\n"),
        ("Uses n:\n```\n" + N + "\n```\n```\nmodule m; n u(); endmodule\n```", f"{N}\n\nmodule m; n u(); endmodule\n"),
    ],
)
def test_extract(response, expected):
    """The last fenced block with the wanted module, or the bare module, after the reasoning."""
    assert extract_verilog(response, "m") == expected


@pytest.mark.parametrize("unit", ["module ", "module m(", "```", "```verilog\n", "package p;\n", "(* ", "module \\\\"])
def test_extract_is_linear(unit):
    """A megabyte of beginnings that never end is searched once, not once a beginning."""
    started = time.process_time()
    extract_verilog(unit * ((1 << 20) // len(unit)) + " endmodule", "m")
    assert time.process_time() - started < 5.0
