"""Every attack on the math verifier gets nothing, quickly; and no text of a megabyte stops the parent process."""

import contextlib
import time
from collections import Counter

import pytest

from reward.config import RewardConfig
from reward.math.extract import extract_answer
from reward.math.reading import read
from reward.math.tidy import tidy
from reward.math.verifier import MathVerifier
from reward.messages import Status, VerifyRequest
from tests.reward.attacks.math_cases import CASES

DEADLINE_S = 5.0
MEGABYTE = 1 << 20
PARENT_CPU_S = 1.0  # CPU time: other processes of the machine are no fault of ours
LAWFUL = {Status.SCORED, Status.MALFORMED}


@pytest.fixture(scope="module")
def verifier():
    built = MathVerifier(RewardConfig(deadline_s=DEADLINE_S))
    assert judged(built, r"\boxed{1+x}", "x+1").reward == 1.0
    yield built
    built.close()


def judged(verifier: MathVerifier, response: str, reference: str):
    (verdict,) = verifier.verify(
        [VerifyRequest(id="1", verifier="math", response=response, reference={"answer": reference})]
    )
    return verdict


def test_there_are_enough_and_of_every_class():
    """At least 80 attacks, no two of one name."""
    assert len(CASES) >= 80
    assert len({name for name, _, _ in CASES}) == len(CASES)
    assert min(Counter(name.partition(":")[0] for name, _, _ in CASES).values()) >= 4


@pytest.mark.parametrize(("reference", "response"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_no_attack_gets_a_reward(verifier, reference, response):
    """Reward 0 with a status the policy learns from, long before the deadline."""
    started = time.monotonic()
    verdict = judged(verifier, response, reference)
    assert verdict.reward == 0.0, verdict.detail
    assert verdict.status in LAWFUL, verdict.detail
    assert time.monotonic() - started < DEADLINE_S


PIECES = (
    "1", "1,", "1,234", " ", "\n", "\t", "{", "}", "(", ")", "[", "\\", "$", "$$", "#", "####", "#### 1", "-", "*", "`",
    ".", "%", "/", "1/", "a", "a b", "1 a", "^", "_", "=", "<think>", "</think>", "\\boxed", "\\boxed{", "\\boxed{{}",
    "\\boxed 1", "\\fbox{1}", "answer is", "answer: ", "answer is **", "the answer is 1.5.", "$1", "\\(", "\\[", "\\(1",
    "\\(1\\)", "\\[\\", "{,}", "\\text{", "\\,", "\\frac", "²", "½", "\u200b", "\u202e", "é", "or ", "n't", "1e1", "?",
    "\\begin{pmatrix}", "&",
)  # fmt: skip


@pytest.mark.parametrize("piece", PIECES)
def test_a_megabyte_is_judged_in_a_second(verifier, piece):
    """What runs in the parent process cannot be killed, so it is linear in the response, whatever it repeats."""
    text = piece * (MEGABYTE // len(piece))
    for response in (text, "\\boxed{" + text, "\\boxed{" + text + "}", "the answer is " + text, text + "\\boxed{1}"):
        started = time.process_time()
        verdict = judged(verifier, response, "x+7")
        assert time.process_time() - started < PARENT_CPU_S, response[:40]
        assert (verdict.reward, verdict.status in LAWFUL) == (0.0, True)


@pytest.mark.parametrize("piece", PIECES)
def test_every_pattern_is_quick_on_the_longest_answer(piece):
    """No regular expression of the reader backtracks without end on a thousand characters."""
    for text in (
        piece * (999 // len(piece)),
        "1" + piece * (998 // len(piece)),
        "x = " + piece * (990 // len(piece)) + "!",
    ):
        started = time.process_time()
        with contextlib.suppress(ValueError, ArithmeticError):  # unreadable, too big, undefined
            read(tidy(text))
        assert time.process_time() - started < PARENT_CPU_S, text[:40]


def test_the_end_of_a_response_counts():
    """An answer at the end of a long response is found, wherever the weaker signs stand before it."""
    assert extract_answer("1 2 3 " * 100_000 + "#### 7") == "7"
    assert extract_answer("\\boxed{ " * 100_000 + "\\boxed{7}") == "7"
