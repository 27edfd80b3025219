r"""Equality of expression trees: constants to many digits, symbols at random points, and a bound on the work."""

import pytest

from reward.math.agreement import proportional, same_value
from reward.math.evaluate import WORK, TooBig
from reward.math.grammar import Unreadable, parse


@pytest.fixture(autouse=True)
def fresh_work():
    WORK.start()


@pytest.mark.parametrize(
    ("answer", "reference", "equal"),
    [
        (r"\sqrt{2}\sqrt{3}-\sqrt{6}", "0", True),
        (r"10^{-300}\sqrt{2}", "0", False),
        (r"10^{100}+\sqrt2", r"10^{100}+\sqrt3", False),
        (r"e^{\pi\sqrt{163}}", "262537412640768744", False),
        (r"\sqrt[3]{-8}", "-2", True),
        (r"\sqrt{x^2}", "|x|", True),
        (r"|x-5|", "5-x", False),
        (r"|x+5|", "5+x", False),
        ("|x-50|", "50-x", False),
        ("|x/3-50|", "50-x/3", False),
        (r"|x-2\cdot 10^5|", r"2\cdot 10^5-x", False),
        (r"\max(x,-1000)", "x", False),
        (r"\min(n,100)", "n", False),
        (r"\max(a,100b)", "a", False),
        (r"x+\max(0,0.1-|x-12345|)", "x", False),
        (r"\sqrt{x-50}\sqrt{60-x}", r"\sqrt{(x-50)(60-x)}", True),
        (r"\cos(\arcsin x)", r"\sqrt{1-x^2}", True),
        (r"e^{x\ln 2}", "2^x", True),
        (r"\ln x^2", r"2\ln x", True),
        (r"\log 100", "2", True),
        (r"\log x", r"\log_2 x", False),
        ("n!", "n(n-1)!", True),
        (r"\cos 2x", r"1-2\sin^2 x", True),
        ("x+0y", "x", False),
    ],
)
def test_same_value(answer, reference, equal):
    """Equal where the reference is real, whatever the random points are."""
    for _ in range(20):
        WORK.start()
        assert same_value(parse(answer), parse(reference)) is equal


def test_proportional():
    """An equation times a number is the same equation, an inequality only for a positive number."""
    one, twice, turned = parse("x+y-1"), parse("2x+2y-2"), parse("1-x-y")
    assert proportional(twice, one, positive=True)
    assert proportional(turned, one, positive=False)
    assert not proportional(turned, one, positive=True)
    assert not proportional(parse("(x+y-1)(x+2)"), one, positive=False)
    assert not proportional(parse("0x+0y"), one, positive=False)


@pytest.mark.parametrize("text", ["9^{9^{99}}", "1001!", "e^{e^{e^9}}", r"10^{-1400}+" + "+".join([r"\ln\sin x"] * 90)])
def test_work_is_bounded(text):
    """What would take long is refused before it is done, or as soon as it has taken its share."""
    with pytest.raises(TooBig):
        same_value(parse(text), parse(r"\ln(-1-x^2)"))


@pytest.mark.parametrize(
    "text", ["5 3", "--5", "x^a^b", "9!!", r"\sum x", "x_", "()", "1..2", "x=", "٣", r"2\frac53", ""]
)
def test_unreadable(text):
    """The language of answers has no guesses."""
    with pytest.raises(Unreadable):
        parse(text)
