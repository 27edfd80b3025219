"""Every Verilog attack, one request at a time: no reward, a lawful status, an end by the deadline plus a second."""

import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest

from reward.config import RewardConfig
from reward.messages import Verdict, VerifyRequest
from reward.sandbox import Limits, Sandbox
from reward.verilog.verifier import VerilogVerifier
from tests.reward.attacks.verilog_attacks import Attack
from tests.reward.attacks.verilog_disguise import DISGUISED
from tests.reward.attacks.verilog_exhaust import EXHAUSTING
from tests.reward.attacks.verilog_problems import PROBLEMS, TESTBENCH_FORM, Problem
from tests.reward.attacks.verilog_reach import REACHING

pytestmark = pytest.mark.skipif(
    shutil.which("iverilog") is None or shutil.which("bwrap") is None, reason="iverilog or bubblewrap is not installed"
)

DEADLINE_S = 4.0
GRACE_S = 1.0
ATTACKS: tuple[Attack, ...] = (*REACHING, *DISGUISED, *EXHAUSTING)
KINDS = sorted({attack.kind for attack in ATTACKS})


@pytest.fixture(scope="module")
def verifier():
    built = VerilogVerifier(RewardConfig(deadline_s=DEADLINE_S))
    for problem in PROBLEMS.values():  # reading a problem is not part of judging a response
        assert verdict_of(built, honest_request(problem))[0].reward == 1.0, problem.name
    yield built
    built.close()


def honest_request(problem: Problem) -> VerifyRequest:
    return VerifyRequest(id=problem.name, verifier="verilog", response=problem.solution, reference=problem.reference)


def verdict_of(verifier: VerilogVerifier, request: VerifyRequest) -> tuple[Verdict, float]:
    started = time.monotonic()
    (verdict,) = verifier.verify([request])
    return verdict, time.monotonic() - started


def complaints(verifier: VerilogVerifier, attacks: list[Attack], canary: Path) -> list[str]:
    """One line for each attack that got what it must not get."""
    found = []
    for attack in attacks:
        verdict, seconds = verdict_of(verifier, attack.request(str(canary)))
        if verdict.reward != 0.0 or verdict.status not in attack.statuses or seconds > DEADLINE_S + GRACE_S:
            found.append(f"{attack.id}: {verdict.reward} {verdict.status} after {seconds:.1f} s, {verdict.detail}")
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_no_attack_is_rewarded(verifier, kind, tmp_path, monkeypatch):
    """Each attack of a kind earns nothing, in time; honest solutions pass after it, and nothing is left on the host."""
    canary = tmp_path / "canary"
    canary.write_text("alive")
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    assert complaints(verifier, [one for one in ATTACKS if one.kind == kind and not one.slow], canary) == []
    assert canary.read_text() == "alive"
    assert list(folder.iterdir()) == []
    assert verifier.pids() == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted({attack.kind for attack in ATTACKS if attack.slow}))
def test_no_slow_attack_is_rewarded(verifier, kind, tmp_path):
    """The same for attacks that hold a core until their limit, and against the problems left out above."""
    canary = tmp_path / "canary"
    canary.write_text("alive")
    assert complaints(verifier, [one for one in ATTACKS if one.kind == kind and one.slow], canary) == []
    assert canary.read_text() == "alive"


def test_honest_solutions_pass_after_all_attacks():
    """A fresh verifier, on the machine the attacks ran on, gives each honest solution its reward, and no wrong one."""
    verifier = VerilogVerifier(RewardConfig(deadline_s=DEADLINE_S))
    for problem in PROBLEMS.values():
        right, _ = verdict_of(verifier, honest_request(problem))
        wrong, _ = verdict_of(
            verifier,
            VerifyRequest(id="w", verifier="verilog", response=problem.response(""), reference=problem.reference),
        )
        assert (right.reward, wrong.reward) == (1.0, 0.0), problem.name
    verifier.close()


def test_there_are_enough_attacks():
    """Every class has several, and names are not used twice within a problem."""
    names = Counter((attack.kind, attack.name) for attack in ATTACKS)
    assert len(names) >= 300
    assert min(Counter(kind for kind, _ in names).values()) >= 5
    assert {one.kind for one in ATTACKS if not one.slow} == set(KINDS)
    assert max(Counter(attack.id for attack in ATTACKS).values()) == 1


def naive(sandbox: Sandbox, attack: Attack) -> bool:
    """The usual harness: everything in one simulation, and a word of success anywhere in its output is success."""
    problem = attack.problem
    source = attack.response.partition("```verilog\n")[2].partition("```")[0]
    files = {
        "tb.sv": problem.testbench.encode(),
        "ref.sv": problem.reference["reference_source"].encode(),
        "dut.sv": source.encode(errors="replace"),
    }
    top = {"eval": "tb", "rtllm": "testbench", "handshake": "tb_loop", "stepper": "tb_step"}[problem.name]
    script = f"iverilog -g2012 -s {top} -o s.vvp dut.sv ref.sv tb.sv >&2 && exec vvp -n s.vvp"
    finished = sandbox.run(["sh", "-c", script], files, Limits(wall_s=3.0, cpu_s=1))
    printed = finished.stdout.decode(errors="replace")
    return "Mismatches: 0 in" in printed or "Your Design Passed" in printed


@pytest.mark.slow
def test_the_attacks_are_real():
    """A naive harness accepts the honest solutions and falls to many of the attacks, of most kinds that aim at it."""
    sandbox = Sandbox("bubblewrap")
    aimed = [
        one for one in ATTACKS if one.problem in TESTBENCH_FORM and one.kind not in ("compiler", "simulator", "reader")
    ]
    beaten = [one for one in aimed if naive(sandbox, one)]
    assert len(beaten) >= 60, sorted(one.id for one in beaten)
    assert {"print", "end", "read", "hide", "define"} <= {one.kind for one in beaten}
