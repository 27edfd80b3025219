"""Testbenches taken apart: what is recorded and played back, and what happens to those that react to the design."""

import re
import shutil

import pytest

from reward.config import RewardConfig
from reward.messages import Status, VerifyRequest
from reward.verilog.verifier import VerilogVerifier

pytestmark = pytest.mark.skipif(
    shutil.which("iverilog") is None or shutil.which("bwrap") is None, reason="iverilog or bubblewrap is not installed"
)

DFF = "module dut(input clk, input [1:0] d, output reg [1:0] q); always @(posedge clk) q <= d; endmodule"
OPEN_LOOP = """
module tb; reg clk = 0; reg [1:0] d; wire [1:0] q; integer bad = 0;
  dut u(.clk(clk), .d(d), .q(q));
  initial begin
    d = 1; #5 clk = 1; #1 if (q !== 1) bad = bad + 1;
    #4 clk = 0; #1 d = 2'bz0; #4 clk = 1; #1 if (q[0] !== 0) bad = bad + 1;
    if (bad == 0) $display("Your Design Passed");
    $finish;
  end
endmodule
"""
# `done` may come whenever it likes, within the testbench's patience
HANDSHAKE = """
module tb; reg clk = 0, go = 0; reg [3:0] a; wire done; wire [3:0] y; integer i, bad = 0;
  always #5 clk = ~clk;
  dut u(.clk(clk), .go(go), .a(a), .done(done), .y(y));
  initial begin
    for (i = 0; i < 4; i = i + 1) begin
      @(negedge clk); a = i * 3; go = 1; @(negedge clk); go = 0;
      while (done !== 1) @(negedge clk);
      if (y !== a + 4'd1) bad = bad + 1;
    end
    if (bad == 0) $display("Your Design Passed");
    $finish;
  end
endmodule
"""
ADDER = "module dut(input clk, input go, input [3:0] a, output reg done, output reg [3:0] y); "


def after(cycles: int, value: str = "a + 1") -> str:
    """Gives `value` so many cycles after `go`."""
    return (
        ADDER
        + f"reg [{cycles}:0] wait_; initial wait_ = 0; always @(posedge clk) begin wait_ <= {{wait_, go}};"
        + f" done <= wait_[{cycles - 1}]; y <= {value}; end endmodule"
    )


@pytest.fixture
def verifier():
    built = VerilogVerifier(RewardConfig())
    yield built
    built.close()


def judge(verifier, *responses: str, testbench: str, reference: str, top: str = "dut"):
    fields = {"reference_source": reference, "top_module": top, "testbench": testbench}
    requests = [
        VerifyRequest(id=str(index), verifier="verilog", response=response, reference=fields)
        for index, response in enumerate(responses)
    ]
    return verifier.verify(requests)


def problem_of(verifier, testbench: str, reference: str):
    judge(verifier, reference, testbench=testbench, reference=reference)
    fields = {"reference_source": reference, "top_module": "dut", "testbench": testbench}
    return verifier._examiner.problems.get(fields, None)  # known by now, so no clock is needed


def calls(verifier, monkeypatch) -> list[str]:
    """Every script that the verifier runs from here on."""
    scripts: list[str] = []
    run = verifier._sandbox.run

    def noted(argv, files, limits):
        scripts.append(argv[-1])
        return run(argv, files, limits)

    monkeypatch.setattr(verifier._sandbox, "run", noted)
    return scripts


def test_what_is_recorded(verifier):
    """Every change of an input in order, with unknown and open bits; changes at one moment by one process are one."""
    problem = problem_of(verifier, OPEN_LOOP, DFF)
    # clk is 0 from the start, and d is set by a process that runs after the instance has looked: clk, d
    assert problem.stimuli.vectors == ("0xx", "001", "101", "001", "0z0", "1z0")
    assert problem.stimuli.from_start
    assert problem.expected.rows == ["xx", "xx", "01", "01", "01", "z0"]


def test_equal_traces_pass_without_the_testbench(verifier, monkeypatch):
    """A design that does what the reference does is one simulation, and no testbench runs."""
    problem_of(verifier, OPEN_LOOP, DFF)
    scripts = calls(verifier, monkeypatch)
    (verdict,) = judge(verifier, DFF.replace("q <= d", "q[1:0] <= d[1:0]"), testbench=OPEN_LOOP, reference=DFF)
    assert (verdict.reward, verdict.components["trusted_harness"]) == (1.0, 1.0)
    assert len(scripts) == 1


def test_the_testbench_decides_where_traces_differ(verifier):
    """The second bit is checked once only: a design may do there what it likes, and nowhere else."""
    careless = DFF.replace("q <= d", "q <= {d[1] & 1'b0, d[0]}")
    wrong = DFF.replace("q <= d", "q <= {d[1], 1'b1}")
    verdicts = judge(verifier, careless, wrong, testbench=OPEN_LOOP, reference=DFF)
    assert [verdict.reward for verdict in verdicts] == [1.0, 0.0]
    assert [verdict.components["trusted_harness"] for verdict in verdicts] == [1.0, 1.0]
    assert "does not report success" in verdicts[1].detail


def test_no_design_and_testbench_in_one_simulation(verifier, monkeypatch):
    """Of an open-loop testbench, no file holds both a line of a design and a line of the testbench."""
    problem_of(verifier, OPEN_LOOP, DFF)
    seen: list[bytes] = []
    run = verifier._sandbox.run
    monkeypatch.setattr(
        verifier._sandbox, "run", lambda argv, files, limits: seen.extend(files.values()) or run(argv, files, limits)
    )
    responses = [DFF.replace("q <= d", f"q <= d {operator} 2'd{value}") for operator in "+-^&|" for value in range(4)]
    marked = [response.replace("always", "wire marked; always") for response in responses]
    judge(verifier, *marked, testbench=OPEN_LOOP, reference=DFF)
    assert any(b"marked" in content for content in seen)
    assert not any(b"marked" in content and b"Your Design Passed" in content for content in seen)
    assert sum(b"Your Design Passed" in content for content in seen) > 0


def test_many_designs_are_few_calls(verifier, monkeypatch):
    """Sixteen designs with their own traces: simulations and playbacks share calls."""
    problem_of(verifier, OPEN_LOOP, DFF)
    scripts = calls(verifier, monkeypatch)
    responses = [
        DFF.replace("q <= d", f"q <= (d {operator} 2'd{value}) ^ 2'd{flip}")
        for operator in "+&"
        for value in (1, 2)
        for flip in range(4)
    ]
    verdicts = judge(verifier, *responses, testbench=OPEN_LOOP, reference=DFF)
    assert len(verdicts) == 16
    known = len(scripts)
    assert known <= 8  # how many share a call depends on how long the reference took
    judge(verifier, *responses, testbench=OPEN_LOOP, reference=DFF)
    assert len(scripts) == known


@pytest.mark.parametrize("cycles", [1, 3, 5])
def test_a_testbench_that_reacts_is_recorded_further(verifier, cycles):
    """Another latency changes what the testbench feeds; the design still never runs beside it."""
    right, wrong = judge(verifier, after(cycles), after(cycles, "a + 2"), testbench=HANDSHAKE, reference=after(2))
    assert (right.reward, wrong.reward) == (1.0, 0.0)
    assert right.components["trusted_harness"] == wrong.components["trusted_harness"] == 1.0


def test_a_testbench_that_waits_for_ever(verifier):
    """A design that never answers is wrong, not a timeout: the testbench goes on far longer than with the reference."""
    silent = ADDER + "always @(posedge clk) begin done <= 0; y <= a; end endmodule"
    (verdict,) = judge(verifier, silent, testbench=HANDSHAKE, reference=after(2))
    assert (verdict.status, verdict.reward) == (Status.SCORED, 0.0)
    assert "does not end" in verdict.detail


def test_a_testbench_that_always_reacts_falls_back(verifier):
    """Where every input depends on the output before it, design and testbench share a simulation, and it is said."""
    echo = """
    module tb; reg clk = 0; reg [7:0] d = 1; wire [7:0] q; integer i;
      dut u(.clk(clk), .d(d), .q(q));
      initial begin
        for (i = 0; i < 60; i = i + 1) begin #5 clk = 1; #5 clk = 0; d = q ^ i; end
        if (^q !== 1'bx) $display("Your Design Passed");
        $finish;
      end
    endmodule
    """
    head = "module dut(input clk, input [7:0] d, output reg [7:0] q); always @(posedge clk) q <= "
    reference, other, unknown = head + "d + 1; endmodule", head + "d + 3; endmodule", head + "d + 8'bx; endmodule"
    verdicts = judge(verifier, reference, other, unknown, testbench=echo, reference=reference)
    assert [verdict.reward for verdict in verdicts] == [1.0, 1.0, 0.0]
    assert [verdict.components["trusted_harness"] for verdict in verdicts] == [1.0, 0.0, 1.0]  # x stays x: no more news


@pytest.mark.parametrize(
    ("testbench", "reference", "why"),
    [
        (OPEN_LOOP.replace("dut u(", "dut #(.N(2)) u("), DFF.replace("dut(", "dut #(parameter N = 1) ("), "parameters"),
        (OPEN_LOOP.replace("dut u(", "dut v(); dut u("), DFF, "several"),
        (OPEN_LOOP, DFF.replace("q <= d", "q <= #8 d"), "pass"),
    ],
)  # fmt: skip
def test_what_cannot_be_split(verifier, testbench, reference, why):
    """Parameters at the instance, several instances, and delays that matter."""
    if "#8" in reference:
        testbench = testbench.replace("#1 if (q !== 1)", "#1 if (q === 1)").replace("q[0] !== 0", "q[0] === 0")
    problem = problem_of(verifier, testbench, reference)
    assert problem.stimuli is None
    assert why in problem.why_joint
    (verdict,) = judge(verifier, reference, testbench=testbench, reference=reference)
    assert (verdict.reward, verdict.components["trusted_harness"]) == (1.0, 0.0)


def test_ports_by_position(verifier):
    """A testbench that connects by position means the reference's order of ports."""
    testbench = OPEN_LOOP.replace(".clk(clk), .d(d), .q(q)", "q, clk, d")
    reference = DFF.replace(
        "input clk, input [1:0] d, output reg [1:0] q", "output reg [1:0] q, input clk, input [1:0] d"
    )
    right, wrong = judge(
        verifier, reference, reference.replace("posedge", "negedge"), testbench=testbench, reference=reference
    )
    assert (right.reward, wrong.reward) == (1.0, 0.0)
    assert right.components["trusted_harness"] == 1.0


def test_no_inputs(verifier):
    """A constant is one sample; a design whose outputs move in time by themselves cannot be split."""
    testbench = (
        "module tb; wire [3:0] y; dut u(y); initial #9 begin"
        ' if (y === 5) $display("Your Design Passed"); $finish; end endmodule'
    )
    constant = "module dut(output [3:0] y); assign y = 5; endmodule"
    right, wrong = judge(verifier, constant, constant.replace("5", "6"), testbench=testbench, reference=constant)
    assert (right.reward, wrong.reward, right.components["trusted_harness"]) == (1.0, 0.0, 1.0)
    moving = "module dut(output reg [3:0] y); initial y = 0; always #1 if (y < 5) y = y + 1; endmodule"
    early = testbench.replace("#9", "#3").replace("y === 5", "y < 5")
    (verdict,) = judge(verifier, moving, testbench=early, reference=moving)
    assert (verdict.reward, verdict.components["trusted_harness"]) == (1.0, 0.0)


def test_a_clock_that_is_low_from_the_start_has_no_edge(verifier):
    """`reg clk = 0` is no falling edge, and `initial clk = 0` is one: a design that counts them sees the difference."""
    counter = "module dut(input clk, output reg [3:0] n); initial n = 0; always @(negedge clk) n <= n + 1; endmodule"
    for start, edges in (("reg clk = 0;", 2), ("reg clk; initial clk = 0;", 3)):
        testbench = f"""
        module tb; {start} wire [3:0] n; dut u(.clk(clk), .n(n));
          initial begin repeat (2) begin #5 clk = 1; #5 clk = 0; end #1 if (n === {edges})
            $display("Your Design Passed"); end
        endmodule
        """
        right, wrong = judge(
            verifier, counter, counter.replace("n = 0", "n = 1"), testbench=testbench, reference=counter
        )
        assert (right.reward, wrong.reward) == (1.0, 0.0)
        assert right.components["trusted_harness"] == 1.0


def test_a_testbench_that_judges_nothing(verifier):
    """Where the reference's outputs stay unknown, our own stimuli judge: its reference passes, other designs do not."""
    toggle = "module dut(input clk, input t, output reg q); initial q = 0; always @(posedge clk) q <= q ^ t; endmodule"
    vacuous = """
    module tb; reg clk = 0, t = 1'bx; wire q; dut u(.clk(clk), .t(t), .q(q));
      initial begin #1; repeat (9) begin #5 clk = 1; #5 clk = 0; end
        $display("Mismatches: 0 in 9 samples"); $finish; end
    endmodule
    """.replace("#1;", "")
    reference = toggle.replace("initial q = 0; ", "")
    wrong = judge(verifier, toggle.replace("q ^ t", "q"), testbench=vacuous, reference=reference)
    assert wrong[0].status == Status.ERROR  # nothing ever sets this one: it judges nothing under our stimuli either
    reference = toggle.replace("initial q = 0;", "reg u = 1'bx; initial q = 1'bx;").replace("q ^ t", "t")
    right, wrong = judge(
        verifier, reference, reference.replace("<= t", "<= ~t"), testbench=vacuous, reference=reference
    )
    assert (right.reward, wrong.reward) == (1.0, 0.0)


def test_marks_of_the_player_are_different_each_time(verifier):
    """Nonces are fresh per player, so nothing learned from one run helps in another."""
    players = [problem_of(VerilogVerifier(RewardConfig()), OPEN_LOOP, DFF).player.nonce for _ in range(2)]
    assert players[0] != players[1]
    assert all(re.fullmatch(r"t[0-9a-f]{16}", nonce) for nonce in players)
