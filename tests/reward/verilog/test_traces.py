"""Samples against samples, by hand."""

import pytest

from reward.verilog.simulate import read_samples
from reward.verilog.traces import Trace, agreeing, agreement


@pytest.mark.parametrize(
    ("sampled", "expected", "fraction"),
    [
        (["01", "10"], ["01", "10"], 1.0),
        (["01", "11"], ["01", "10"], 0.5),
        (["01", "z1"], ["xx", "x1"], 1.0),
        (["0x", "x0"], ["01", "00"], 0.0),
        (["11"], ["x0"], 0.0),
        (["z"], ["z"], 1.0),
        (["x"], ["z"], 0.0),
    ],
)
def test_agreement(sampled, expected, fraction):
    """An unknown bit of the reference agrees with everything, an unknown bit of the design only with that."""
    assert agreement(Trace.of(sampled), Trace.of(expected)) == fraction


def test_rows_of_two_designs():
    """Rows are cut per design; a second reading of a sample makes the bits that moved unknown, for the mover alone."""
    printed = "N:0110\nN+0111\nN:1111\nnoise\nN:1\nM:0000\n"
    assert read_samples(printed, "N", bits=2, count=2) == ["0111", "1x11"]


def test_says_nothing():
    """Without a single 0 or 1 a reference judges nothing."""
    assert Trace.of(["xz", "zz"]).says_nothing
    assert not Trace.of(["xz", "z1"]).says_nothing


def test_rows_of_a_trace():
    """What goes in as rows comes out as rows."""
    trace = Trace.of(["01x", "1z0"])
    assert (len(trace), trace.rows) == (2, ["01x", "1z0"])
    assert trace.lines == b"01x\n1z0\n"


def test_traces_of_different_lengths():
    """Samples that are missing do not agree; those that are too many do not count."""
    short, long = Trace.of(["01", "10"]), Trace.of(["01", "10", "00", "11"])
    assert agreement(short, long) == 0.5
    assert agreement(long, short) == 1.0
    assert agreeing(Trace.of(["01", "1x"]), short).tolist() == [True, False]
