r"""The math verifier: a table of answers, the mended faults of math-verify 0.9, and hostile expressions."""

import time

import pytest

from reward.config import ChildConfig, RewardConfig
from reward.math.extract import extract_answer
from reward.math.number import read_number
from reward.math.verifier import MathVerifier, compare_quickly, expected
from reward.messages import Status, VerifyRequest
from tests.reward.math.pairs import CALCULATIONS, NUMBERS
from tests.reward.math.pairs import DIFFERENT as DIFFERENT_PAIRS
from tests.reward.math.pairs import EQUAL as EQUAL_PAIRS


@pytest.fixture(scope="module")
def verifier():
    built = MathVerifier(RewardConfig(deadline_s=10.0))
    yield built
    built.close()


def judge(verifier: MathVerifier, response: str, answer: str, **reference: str):
    request = VerifyRequest(id="7", verifier="math", response=response, reference={"answer": answer, **reference})
    (verdict,) = verifier.verify([request])
    assert verdict.id == "7"
    return verdict


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"\boxed{1} and then \boxed{2}", "2"),
        (r"<think>\boxed{1}</think> so \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\fbox{5}", "5"),
        (r"\boxed 7", "7"),
        (r"\boxed{\text{a } \{1,2\}}", r"\text{a } \{1,2\}"),
        ("so 3 + 4 = 7\n#### 7", " 7"),
        ("The answer is 42.", "42"),
        ("the final answer is: $\\frac{3}{4}$. Done", r"\frac{3}{4}"),
        ("**Answer:** 12 apples", "12 apples"),
        ("Answer: 3.5", "3.5"),
        ("we get $x$ and so $y=3$", "y=3"),
        ("20*3=60;2*3=6;60+6=66;66+9=75", "75"),
        ("from 10 to -3", "-3"),
        ("12-5", "5"),
        ("it costs 1,234.50 dollars", "1,234.50"),
        ("The answer is 5 since there are 3 boxes", "5"),
        ("the answer is 3 times 4 which makes 12", "12"),
        ("The answer is 56!", "56"),
        ("The answer is 56, since 7 * 8 = 56.", "56"),
        ("The answer is (B) because A is 3", "(B)"),
        ("The answer is B since 1 is odd", "B"),
        ("The answer is (B) the year 1990", "(B) the year 1990"),
        ("The answer is 5. No other values work.", "5"),
        ("The answer is 42. Wait, it is 43.", "42. Wait, it is 43."),
        ("The answer is 42. Maybe 43.", "42. Maybe 43."),
        ("The answer is 42. Alternatively, count them one by one.", "42"),
        ("The answer is 0.5. Or, in percent, 50%.", "0.5"),
    ],
)
def test_extract(response, answer):
    """The last box, else the weaker signs in their order."""
    assert extract_answer(response).strip() == answer.strip()


@pytest.mark.parametrize("response", ["", "no number here", "<think> maybe 5", r"<think>5</think>", r"\boxed{}"])
def test_no_answer_is_malformed(verifier, response):
    """A response that gives no answer is not a wrong answer of ours."""
    verdict = judge(verifier, response, "5")
    assert (verdict.status, verdict.reward) == (Status.MALFORMED, 0.0)


EQUAL = [
    # faults of math-verify 0.9
    (r"\boxed{1\,000}", "1000"),
    (r"\boxed{7.}", "7"),
    (r"\boxed{１２}", "12"),
    (r"\fbox{12}", "12"),
    (r"\boxed{3} or \boxed{4}", "4"),
    (r"\boxed{(1+i)^2}", "2i"),
    (r"\boxed{50\%}", "0.5"),
    (r"\boxed{1.5e3}", "1500"),
    # numbers
    (r"\boxed{1,234,567}", "1234567"),
    (r"\boxed{-\frac12}", "-0.5"),
    (r"\boxed{2\frac{1}{2}}", r"\frac{5}{2}"),
    (r"\boxed{1.5 \times 10^{3}}", "1500"),
    (r"\boxed{0.3333333}", r"\frac{1}{3}"),
    (r"\boxed{\$18}", "18"),
    (r"\boxed{18 dollars}", "18"),
    (r"\boxed{5\text{ cm}^2}", "5"),
    (r"\boxed{90^\circ}", "90"),
    (r"\boxed{50\%}", "50"),
    # expressions
    (r"\boxed{x^2+2x+1}", "(x+1)^2"),
    (r"\boxed{\sqrt{8}}", r"2\sqrt{2}"),
    (r"\boxed{\dfrac{\pi}{2}}", r"\frac{\pi}{2}"),
    (r"\boxed{x = 5}", "5"),
    (r"\boxed{\left( 3, \frac{\pi}{2} \right)}", r"(3,\pi/2)"),
    (r"\boxed{\{2, 1\}}", r"\{1,2\}"),
    (r"\boxed{\text{(C)}}", "C"),
    (r"\boxed{\begin{pmatrix} 1 \\ 2 \end{pmatrix}}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
    (r"\boxed{\text{Evelyn}}", r"\text{Evelyn}"),
]

DIFFERENT = [
    # faults of math-verify 0.9
    (r"\boxed{1/2^{98}}", "1/2^{99}"),
    (r"\boxed{10^{-20}}", "10^{-21}"),
    (r"\boxed{0.0000001}", "0.0000002"),
    (r"\boxed{3} or \boxed{4}", "3"),
    (r"\boxed{(1+i)^2}", "2"),
    # numbers
    (r"\boxed{0.33}", r"\frac{1}{3}"),
    (r"\boxed{10^{20}+1}", "10^{20}"),
    (r"\boxed{100000000000000000001}", "100000000000000000000"),
    (r"\boxed{-5}", "5"),
    (r"\boxed{50\%}", "5"),
    (r"\boxed{12}", "1,2"),
    # expressions
    (r"\boxed{(1,2)}", "(2,1)"),
    (r"\boxed{[0,1)}", "[0,1]"),
    (r"\boxed{x^2+1}", "(x+1)^2"),
    (r"\boxed{B}", "C"),
    (r"\boxed{\text{Monday}}", r"\text{Tuesday}"),
    (r"\boxed{1 or 2 or 3}", "2"),
    (r"\boxed{x}", "5"),
    (r"\boxed{?}", "5"),
]


@pytest.mark.parametrize(("response", "answer"), EQUAL)
def test_equal(verifier, response, answer):
    """Equal in value, however it is written."""
    verdict = judge(verifier, response, answer)
    assert (verdict.status, verdict.reward) == (Status.SCORED, 1.0)


@pytest.mark.parametrize(("response", "answer"), DIFFERENT)
def test_different(verifier, response, answer):
    """Not equal, however near: a wrong answer is scored, with 0."""
    verdict = judge(verifier, response, answer)
    assert (verdict.status, verdict.reward) == (Status.SCORED, 0.0)


@pytest.mark.parametrize(("answer", "reference"), EQUAL_PAIRS)
def test_pairs_are_equal(verifier, answer, reference):
    """Each answer of the table equals its reference."""
    verdict = judge(verifier, rf"\boxed{{{answer}}}", reference)
    assert (verdict.status, verdict.reward) == (Status.SCORED, 1.0), verdict.detail


@pytest.mark.parametrize(("answer", "reference"), CALCULATIONS)
def test_a_calculation_does_not_answer_a_number(verifier, answer, reference):
    """It may be the question itself: it has the right value, and counts only where the reference says so."""
    response = rf"\boxed{{{answer}}}"
    for form, reward in (("any", 1.0), ("auto", 0.0), ("number", 0.0)):
        verdict = judge(verifier, response, reference, form=form)
        assert (verdict.status, verdict.reward) == (Status.SCORED, reward), form
    assert judge(verifier, response, reference).reward == 0.0


@pytest.mark.parametrize(("answer", "reference"), NUMBERS)
def test_a_number_may_be_written_in_many_ways(verifier, answer, reference):
    """A fraction, a power of ten, a sign, a root that has no other form: nothing is left to be worked out."""
    assert judge(verifier, rf"\boxed{{{answer}}}", reference).reward == 1.0


@pytest.mark.parametrize(("answer", "reference"), DIFFERENT_PAIRS)
def test_pairs_are_different(verifier, answer, reference):
    """Each answer of the table is wrong, and is called wrong."""
    verdict = judge(verifier, rf"\boxed{{{answer}}}", reference)
    assert (verdict.status, verdict.reward) == (Status.SCORED, 0.0), verdict.detail


@pytest.mark.parametrize("expression", ["9^{9^{9^{9}}}", "10^{100000}", "99999999!", "x+" * 2000 + "1"])
def test_what_is_not_worked_out_is_malformed(verifier, expression):
    """A bomb in place of a number takes the 0 of a wrong answer, at once: it buys nobody out of a group."""
    started = time.monotonic()
    verdict = judge(verifier, rf"\boxed{{{expression}}}", "4", form="any")
    assert (verdict.status, verdict.reward, verdict.trainable) == (Status.MALFORMED, 0.0, True)
    assert time.monotonic() - started < 5.0


@pytest.mark.parametrize("brackets", ["{}", r"\{{{}\}}"])
def test_a_long_list_of_formulas_is_worked_out(verifier, brackets):
    """Thirty formulas in any order are equal to themselves, and an answer that keeps us busy is the answer's fault."""
    powers = range(2, 32)
    reference = brackets.format(", ".join(rf"x^{{{power}}}+\sqrt{{x}}" for power in powers))
    turned = brackets.format(", ".join(rf"\sqrt{{x}}+x^{{{power}}}" for power in reversed(powers)))
    busy = brackets.format(", ".join(rf"x^{{{power}}}+\sqrt{{x}}+0\ln\sin x^{{99}}" for power in powers))
    assert judge(verifier, rf"\boxed{{{turned}}}", reference).reward == 1.0
    assert judge(verifier, rf"\boxed{{{busy}, x}}", reference).status in (Status.MALFORMED, Status.SCORED)


def test_a_reference_that_cannot_be_worked_out_is_an_error(verifier):
    """It is no fault of the response, unless the response repeats it."""
    assert judge(verifier, r"\boxed{3}", "9^{9^{9^{9}}}x").status == Status.ERROR
    assert judge(verifier, r"\boxed{9^{9^{9^{9}}}x}", "9^{9^{9^{9}}}x").reward == 1.0


def test_a_form_can_be_asked_for(verifier):
    """With form "number" a formula is no answer, even where the reference itself is one; a wrong form is our error."""
    for form, answer, reference, reward in (
        ("number", "x = 56", "56", 1.0),
        ("number", r"56\text{ cm}", "56", 1.0),
        ("number", r"7 \times 8", r"7 \times 8", 0.0),
        ("auto", r"7 \times 8", r"7 \times 8", 1.0),
        ("auto", r"7 \times 8", "56", 0.0),
    ):
        assert judge(verifier, rf"\boxed{{{answer}}}", reference, form=form).reward == reward, (form, answer)
    assert judge(verifier, r"\boxed{56}", "56", form="decimal").status == Status.ERROR


def test_a_reference_outside_the_language_goes_to_math_verify(verifier):
    """A sum as the reference equals itself and its sum, not another number; an answer to it is bounded all the same."""
    reference = r"\sum_{k=1}^{4} k"
    assert judge(verifier, r"\boxed{10}", reference).reward == 1.0
    assert judge(verifier, r"\boxed{11}", reference).reward == 0.0
    assert judge(verifier, r"\boxed{9^{9^{9^{9}}}}", reference).status == Status.MALFORMED


def test_an_answer_that_busies_math_verify_is_malformed(verifier):
    """Beside a reference that is quick, what takes long is the answer: it is wrong, and stays in its group."""
    reference = r"\sum_{k=1}^{n} k^2"
    verdict = judge(verifier, r"\boxed{(n+\sqrt{n}+\pi+1)^{97}}", reference)
    assert (verdict.status, verdict.reward) == (Status.MALFORMED, 0.0)
    assert verdict.seconds < 10.0
    assert judge(verifier, r"\boxed{\frac{n(n+1)(2n+1)}{6}}", reference).reward == 1.0


def test_a_reference_that_busies_math_verify_is_not_the_answers_fault(verifier):
    """It times out with any answer, which then says nothing about the response."""
    reference = r"\sum_{k=1}^{9} (n+\sqrt{n}+\pi+k)^{97}"
    assert judge(verifier, r"\boxed{n+1}", reference).status == Status.TIMEOUT


def test_processes_are_replaced_after_their_share():
    """What a library leaks is bounded by the life of a process."""
    verifier = MathVerifier(RewardConfig(child=ChildConfig(verdicts=1)))
    judge(verifier, r"\boxed{x+1}", "1+x")
    assert verifier.pids() == []
    judge(verifier, r"\boxed{x+2}", "2+x")
    verifier.close()


def test_equal_pairs_ask_once(verifier, monkeypatch):
    """A pair judged before is not sent again."""
    judge(verifier, r"\boxed{a+b+c}", "c+b+a")
    monkeypatch.setattr(verifier._children, "ask", None)
    assert judge(verifier, r"\boxed{a+b+c}", "c+b+a").reward == 1.0


@pytest.mark.parametrize("reference", [{}, {"answer": 5}, {"answer": " "}])
def test_a_useless_reference_is_an_error_of_ours(verifier, reference):
    """It never makes a response wrong."""
    (verdict,) = verifier.verify([VerifyRequest(id="1", verifier="math", response="5", reference=reference)])
    assert verdict.status == Status.ERROR


def test_the_fast_path_knows_what_it_does_not_know():
    """Two plain numbers are decided without a process; anything else is not guessed at."""
    assert compare_quickly("0.50", expected("1/2")) is True
    assert compare_quickly("3", expected("4")) is False
    assert compare_quickly("x", expected("4")) is None
    assert compare_quickly("x", expected("x ")) is True
    assert read_number("2/0") is None
    assert read_number("1e999999999") is None
    assert read_number(".") is None
