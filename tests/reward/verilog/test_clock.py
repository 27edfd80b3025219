"""Deadlines: a clock per response, and no verdict later than its own."""

import shutil
import time

import pytest

from reward.config import RewardConfig, VerilogConfig
from reward.messages import Status, VerifyRequest
from reward.verilog.clock import Clock, running
from reward.verilog.verifier import VerilogVerifier

needs_tools = pytest.mark.skipif(
    shutil.which("iverilog") is None or shutil.which("bwrap") is None, reason="iverilog or bubblewrap is not installed"
)

DEADLINE_S = 1.5
READY_TRIES = 20  # of preparing a reference on a busy machine; each goes on where the last one stopped
HEAD = "module m(input clk, input [3:0] a, output reg [3:0] y); "
GOOD = HEAD + "always @(posedge clk) y <= a; endmodule"
TESTBENCH = """
module tb; reg clk = 0; reg [3:0] a = 0; wire [3:0] y; integer i, bad = 0; m u(clk, a, y);
  initial begin
    for (i = 0; i < 20; i = i + 1) begin a = i; #5 clk = 1; #1 if (y !== a) bad = bad + 1; #4 clk = 0; end
    if (bad == 0) $display("Your Design Passed"); $finish;
  end
endmodule
"""
HANGING = TESTBENCH.replace("y !== a", "y !== a && a !== 10").replace(
    "endmodule", "always @(y) while (y === 10); endmodule"
)


def test_a_clock_runs_only_in_its_blocks():
    """Time outside of a block is not spent, each clock of a block is charged once, the least left is the deadline."""
    one, other = Clock(10.0), Clock(5.0)
    time.sleep(0.05)
    with running([one, other, one]) as deadline:
        assert 4.9 < deadline.left_s() <= 5.0
        time.sleep(0.05)
    assert 0.05 <= one.spent_s == other.spent_s < 1.0
    with running([one]):
        pass
    assert one.left_s < 10.0
    assert not one.passed
    one.spent_s = 11.0
    assert (one.left_s, one.passed) == (0.0, True)


def slow_tools() -> RewardConfig:
    """Limits on CPU time so wide that only the deadline ends anything."""
    return RewardConfig(deadline_s=DEADLINE_S, verilog=VerilogConfig(compile_cpu_s=60, simulate_cpu_s=60))


@needs_tools
@pytest.mark.parametrize(
    ("testbench", "hang"),
    [
        (None, HEAD + "always @* begin y = a; while (1); end endmodule"),
        (TESTBENCH, HEAD + "reg q; initial forever q = ~q; always @(posedge clk) y <= q; endmodule"),
        (
            None,
            HEAD + "function integer f(input integer n); begin f = 0; while (1) f = f + 1; end endfunction"
            " localparam N = f(1); always @* y = N; endmodule",
        ),
    ],
)
def test_no_verdict_is_later_than_its_deadline(testbench, hang):
    """Compiler or simulator hang, alone or beside a good design: a timeout within a second of the deadline."""
    verifier = VerilogVerifier(slow_tools())
    fields = {"reference_source": GOOD, "top_module": "m", "testbench": testbench}
    requests = [
        VerifyRequest(id=str(n), verifier="verilog", response=text, reference=fields)
        for n, text in enumerate([GOOD, hang])
    ]
    assert any(verifier.verify(requests[:1])[0].reward == 1.0 for _ in range(READY_TRIES))
    started = time.monotonic()
    (alone,) = verifier.verify(requests[1:])
    assert time.monotonic() - started < DEADLINE_S + 1.0
    assert (alone.status, alone.reward) == (Status.TIMEOUT, 0.0)
    assert alone.seconds <= DEADLINE_S + 1.0
    verifier.close()


@needs_tools
def test_a_testbench_that_hangs_on_an_output():
    """It never says anything of the design: a timeout, for this design alone."""
    verifier = VerilogVerifier(RewardConfig(deadline_s=20.0))
    reference = GOOD.replace("y <= a;", "y <= a == 10 ? 0 : a;")
    fields = {"reference_source": reference, "top_module": "m", "testbench": HANGING}
    texts = [GOOD, reference.replace("? 0 :", "? 1 :")]
    requests = [VerifyRequest(id=text, verifier="verilog", response=text, reference=fields) for text in texts]
    verdicts = verifier.verify(requests)
    assert [(one.status, one.reward) for one in verdicts] == [(Status.TIMEOUT, 0.0), (Status.SCORED, 1.0)]
    assert [one.components["trusted_harness"] for one in verdicts] == [1.0, 1.0]
    verifier.close()


@needs_tools
def test_a_reference_that_is_not_ready_in_time_is_tried_again():
    """A testbench that outlasts the deadline makes an error of ours, and is not remembered as unusable."""
    verifier = VerilogVerifier(slow_tools())
    endless = "module tb; wire [3:0] y; m u(1'b0, 4'd0, y); initial while (1); endmodule"
    fields = {"reference_source": GOOD, "top_module": "m", "testbench": endless}
    request = VerifyRequest(id="1", verifier="verilog", response=GOOD, reference=fields)
    calls = []
    run = verifier._sandbox.run
    verifier._sandbox.run = lambda *arguments: calls.append(1) or run(*arguments)
    for tries in (1, 2):
        started = time.monotonic()
        (verdict,) = verifier.verify([request])
        assert time.monotonic() - started < DEADLINE_S + 1.0
        assert verdict.status == Status.ERROR
        assert "not ready in time" in verdict.detail
        assert len(calls) == tries
    verifier.close()


@needs_tools
def test_a_batch_is_not_one_deadline():
    """Hangs in one batch each cost their own time: the good designs among them pass."""
    verifier = VerilogVerifier(RewardConfig(deadline_s=8.0, verilog=VerilogConfig(wild_batch=2)))
    fields = {"reference_source": GOOD, "top_module": "m", "testbench": None}
    texts = []
    for number in range(2):
        texts.append(HEAD + f"always @* begin y = a + {number}; while (1); end endmodule")
        texts.append(HEAD + f"always @(posedge clk) y <= a + {number} - {number}; endmodule")
    requests = [
        VerifyRequest(id=str(n), verifier="verilog", response=text, reference=fields) for n, text in enumerate(texts)
    ]
    verdicts = verifier.verify(requests)
    assert [verdict.status for verdict in verdicts] == [Status.TIMEOUT, Status.SCORED] * 2
    assert [verdict.reward for verdict in verdicts] == [0.0, 1.0] * 2
    assert all(verdict.seconds < 9.0 for verdict in verdicts)
    verifier.close()
