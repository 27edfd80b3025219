"""A short run of what scripts/fuzz_verifiers.py does for as long as one likes."""

import importlib.util
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reward.config import RewardConfig
from reward.math.verifier import MathVerifier
from reward.messages import VerifyRequest
from reward.verilog.verifier import VerilogVerifier
from tests.reward.attacks.fuzzing import DEADLINE_S, Tally, complaints, fuzz
from tests.reward.attacks.math_fuzz import FuzzCase
from tests.reward.attacks.verilog_problems import PROBLEMS, fenced

SECONDS, MOST_SECONDS = 6.0, 60.0
SEED = 20  # the same cases in every run, as far as the machine gets

needs_tools = pytest.mark.skipif(
    shutil.which("iverilog") is None or shutil.which("bwrap") is None, reason="iverilog or bubblewrap is not installed"
)
needs_math = pytest.mark.skipif(importlib.util.find_spec("math_verify") is None, reason="math-verify is not installed")
ANY_TEXT = st.text(max_size=300) | st.text(st.characters(exclude_categories=()), max_size=60)  # lone surrogates too
SHORT = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("name", [pytest.param("verilog", marks=needs_tools), pytest.param("math", marks=needs_math)])
def test_a_few_seconds_of_fuzzing(name):
    """Cases from the grammars break no promise, and reach more than one kind of verdict, if it takes longer."""
    tally = Tally()
    seconds = SECONDS
    while len(tally.statuses) < 2 and seconds <= MOST_SECONDS:
        tally = Tally()
        findings = [f"{one.case}: {one.complaint}" for one in fuzz(name, seconds, SEED, tally)]
        assert findings == []
        seconds *= 3
    assert len(tally.statuses) >= 2


@pytest.fixture(scope="module")
def verilog():
    built = VerilogVerifier(RewardConfig(deadline_s=DEADLINE_S))
    yield built
    built.close()


@pytest.fixture(scope="module")
def math():
    built = MathVerifier(RewardConfig(deadline_s=DEADLINE_S))
    built.verify([VerifyRequest(id="1", verifier="math", response="\\boxed{x+1}", reference={"answer": "1+x"})])
    yield built
    built.close()


@needs_tools
@SHORT
@given(text=ANY_TEXT, name=st.sampled_from(sorted(PROBLEMS)), inside=st.booleans())
def test_any_text_as_verilog(verilog, text, name, inside):
    """Whatever the text, as a response or inside a module, it is judged."""
    problem = PROBLEMS[name]
    response = fenced(problem.module(f"{problem.wrong}\n{text}")) if inside else text
    request = VerifyRequest(id="any", verifier="verilog", response=response, reference=problem.reference)
    assert complaints(verilog, FuzzCase(request=request, wrong=True), Tally()) == []


@needs_math
@SHORT
@given(text=ANY_TEXT, reference=ANY_TEXT.filter(lambda text: text.strip() != ""), boxed=st.booleans())
def test_any_text_as_math(math, text, reference, boxed):
    """Whatever the text of answer and reference, it is judged."""
    response = f"\\boxed{{{text}}}" if boxed else text
    request = VerifyRequest(id="any", verifier="math", response=response, reference={"answer": reference})
    assert complaints(math, FuzzCase(request=request, wrong=False, sound=False), Tally()) == []
