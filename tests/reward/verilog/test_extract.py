"""Where in a response the design is."""

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
    ],
)
def test_extract(response, expected):
    """The last fenced block with the wanted module, or the bare module, after the reasoning."""
    assert extract_verilog(response, "m") == expected
