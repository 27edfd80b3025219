"""Responses that are judged together: a hostile one changes nothing for the honest ones beside it."""

import itertools
import shutil

import pytest

from reward.config import RewardConfig, VerilogConfig
from reward.messages import Status, VerifyRequest
from reward.verilog.verifier import VerilogVerifier
from tests.reward.attacks.test_verilog_attacks import ATTACKS
from tests.reward.attacks.verilog_problems import ADDER, COUNTER, EVAL, fenced

pytestmark = pytest.mark.skipif(
    shutil.which("iverilog") is None or shutil.which("bwrap") is None, reason="iverilog or bubblewrap is not installed"
)

MATES = 16
SERIAL = itertools.count()
EVERY = 9  # so many attacks from one that is tried in every run to the next


@pytest.fixture(scope="module")
def forgetful():
    """A verifier that remembers almost nothing, so that every batch is simulated."""
    built = VerilogVerifier(RewardConfig(deadline_s=20.0, cache_entries=1))
    yield built
    built.close()


def asked(name: str, response: str, problem=COUNTER) -> VerifyRequest:
    return VerifyRequest(id=name, verifier="verilog", response=response, reference=problem.reference)


def honest(problem, index: int) -> str:
    """Right in words that were never used before, so that no memory of any kind answers for a simulation."""
    own = f"wire [{index}:0] mine_{next(SERIAL)}; "
    return fenced(problem.module(f"{own}\n{problem.honest}"))


def harmed(verifier: VerilogVerifier, hostile: list[str], problem=COUNTER) -> list[str]:
    """Honest mates of the hostile responses that did not get their reward, or hostile ones that got one."""
    requests = [asked(f"honest {index}", honest(problem, index), problem) for index in range(MATES)]
    for number, response in enumerate(hostile):  # near each other, so that they share a simulation with what is between
        requests.insert(2 + 3 * number, asked(f"hostile {number}", response, problem))
    verdicts = verifier.verify(requests)
    return [
        f"{one.id}: {one.reward} {one.status} {one.detail}"
        for one in verdicts
        if one.reward != float(one.id.startswith("honest"))
    ]


BATCHED = [attack for attack in ATTACKS if attack.problem is COUNTER]
QUICK = [attack for attack in BATCHED if not attack.slow and attack.kind not in ("compiler", "simulator")]
HANGING = [attack for attack in BATCHED if attack.slow]


def test_one_hostile_in_sixteen(forgetful):
    """Some of every kind of attack, each among sixteen honest designs: all honest ones get their reward."""
    found = {attack.id: harmed(forgetful, [attack.request().response]) for attack in QUICK[::EVERY]}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_one_that_hangs_in_sixteen(forgetful):
    """A simulation that never ends costs the honest ones time and nothing else."""
    (attack,) = [one for one in BATCHED if one.name == "forever"]
    assert harmed(forgetful, [attack.response]) == []


@pytest.mark.slow
def test_every_quick_hostile_in_sixteen(forgetful):
    """The same for every attack that does not hold a core."""
    found = {attack.id: harmed(forgetful, [attack.request().response]) for attack in QUICK}
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.slow
@pytest.mark.parametrize("attack", HANGING[::4], ids=lambda attack: attack.name)
def test_hanging_hostiles_in_sixteen(forgetful, attack):
    """And for attacks that hold the compiler or the simulator until their limit."""
    assert harmed(forgetful, [attack.request().response]) == []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("typedef logic \\tt ; \\tt`ifdef X ;", "wire \\b`endif c ;"),
        ("`ifdef X", "`endif"),
        ("/*", "*/"),
        ("wire \\a/* ;", "wire \\*/b ;"),
        ("wire \\x`define M x ;", "wire \\y`M ;"),
        ('wire w = "', 'wire w = ";'),
        ("generate begin", "end endgenerate"),
        ("`default_nettype none", "`default_nettype wire"),
        ("`timescale 1s/1s", "`timescale 1fs/1fs"),
        ("`define always initial", "`undef always"),
        ('wire \\a"b ;', 'wire \\c"d ;'),
        ("(*", "*) wire w;"),
    ],
)
def test_two_that_work_together(forgetful, first, second):
    """What one design opens and another closes takes nothing of what lies between."""
    assert harmed(forgetful, [COUNTER.response(first), COUNTER.response(second)]) == []


def test_many_hostile_around_one_honest(forgetful):
    """The other way round: a single honest design among many hostile ones."""
    chosen = [attack for attack in QUICK if attack.kind in ("print", "read", "replace", "define", "ports")][:40]
    requests = [asked(f"hostile {number}", attack.response) for number, attack in enumerate(chosen)]
    requests.insert(20, asked("honest", honest(COUNTER, 1)))
    verdicts = forgetful.verify(requests)
    assert [one.id for one in verdicts if one.reward > 0] == ["honest"]
    assert {one.status for one in verdicts} <= {Status.SCORED, Status.MALFORMED}


def test_a_verdict_is_remembered_for_its_problem_only():
    """The same response under another top, another reference or another testbench is another question."""
    adder = "assign y = a + b;"
    xor = "assign y = a ^ b;"
    ports = "input [3:0] a, input [3:0] b, output [3:0] y"
    both = f"module First({ports}); {adder} endmodule\nmodule Second({ports}); {xor} endmodule\n"
    plus = f"module R({ports}); {adder} endmodule"
    verifier = VerilogVerifier(RewardConfig(deadline_s=20.0))

    def reward(top: str, source: str, reference: str) -> float:
        fields = {"reference_source": reference, "top_module": top, "testbench": None}
        request = VerifyRequest(id=top, verifier="verilog", response=fenced(source), reference=fields)
        return verifier.verify([request])[0].reward

    for _ in range(2):
        assert reward("First", both, plus) == 1.0
        assert reward("Second", both, plus) == 0.0
        assert reward("Second", both, plus.replace(adder, xor)) == 1.0
        assert reward("First", both, plus.replace(adder, xor)) == 0.0
    verifier.close()


def test_the_second_simulation_is_like_the_first():
    """Judged again, by the same service or a fresh one of the same seed, every verdict is the one before."""
    chosen = [attack for attack in ATTACKS if attack.kind == "notice" and attack.problem in (ADDER, EVAL)]
    requests = [attack.request() for attack in chosen]

    def verdicts(verifier: VerilogVerifier) -> list:
        return [(one.reward, one.status, dict(one.components)) for one in verifier.verify(requests)]

    seeded = VerilogConfig(seed=1)
    first = VerilogVerifier(RewardConfig(deadline_s=20.0, cache_entries=1, verilog=seeded))
    once, again = verdicts(first), verdicts(first)
    first.close()
    second = VerilogVerifier(RewardConfig(deadline_s=20.0, verilog=seeded))
    fresh, remembered = verdicts(second), verdicts(second)
    second.close()
    assert once == again == fresh == remembered
