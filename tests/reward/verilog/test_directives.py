"""What the preprocessor makes of a text."""

import pytest

from reward.verilog.directives import MAX_EXPANDED_CHARS, checked_source
from reward.verilog.errors import Rejected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a // b\nc /* d\ne */ f", "a\nc\nf"),
        ('x = "// no /* comment `here";', 'x = "// no /* comment \'here";'),
        ("`define A 1\n`A", "1"),
        ("`define A `B\n`define B 2\n`A", "2"),
        ("`define F(a, b) (a+b)\n`F(1, (2,3))", "(1+(2,3))"),
        ("`define F(a, b=7) a b\n`F(1) `F(1,2)", "1 7 1 2"),
        ("`define F(a) `G(a) a\n`define G(x) <x>\n`F(5)", "<5> 5"),
        ("`define F(a) a``_x\n`F(y)", "y_x"),
        ('`define F(a) "a" a\n`F(z)', '"a" z'),
        ("`define F(x) \\\n  x; \\\n  x\n`F(1)", "1;   1"),
        ("`ifdef A\n1\n`elsif B\n2\n`else\n3\n`endif", "3"),
        ("`define B\n`ifdef A\n1\n`elsif B\n2\n`ifndef B\n4\n`endif\n`else\n3\n`endif", "2"),
        ("`define A\n`undef A\n`ifndef A\n1\n`endif", "1"),
        ("`ifdef NO\n`unknown `define A 1\n`endif\n2", "2"),
        ("`default_nettype none\n`resetall\n`celldefine\nm\n`endcelldefine", "m"),
        ("a\r\nb\rc\ufeff", "a\nb\nc"),
    ],
)
def test_text(source, expected):
    """Comments go, conditions are decided, macros are written out, strings stay."""
    assert " ".join(checked_source(source).split()) == " ".join(expected.split())


def test_lines_stay():
    """A message about line n of the text is about line n of the response."""
    source = "`define F(a) \\\n a\n/* one\ntwo */\n`ifdef A\nx\n`endif\nhere"
    assert checked_source(source).split("\n")[7] == "here"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("`F(1)", "undefined macro `F"),
        ("`define F(a) a\n`F", "without its arguments"),
        ("`define F(a) a\n`F(1", "do not end"),
        ("`define F(a) a\n`F(1,2)", "takes 1 arguments, got 2"),
        ("`define F(a,b) a\n`F(1)", "takes 2 arguments, got 1"),
        ("`define A `A\n`A", "deep, or itself"),
        ("`define A `ifdef B\n`A", "undefined macro `ifdef"),
        (
            "`define F(a) a a a a a a a a a a\n" + "`F(" * 6 + "x" + ")" * 6,
            f"more than {MAX_EXPANDED_CHARS} characters",
        ),
        ('`include "/etc/passwd"', "`include"),
        ("/* x", "does not end"),
    ],
)
def test_refused(source, reason):
    """Each refusal says what it refuses."""
    with pytest.raises(Rejected, match=reason):
        checked_source(source)
