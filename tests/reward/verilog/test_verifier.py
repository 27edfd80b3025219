"""The verilog verifier from response to verdict, with real simulations."""

import dataclasses
import shutil
import time

import pytest

from reward.config import RewardConfig, VerilogConfig
from reward.messages import Status, VerifyRequest
from reward.verilog.verifier import VerilogVerifier

pytestmark = pytest.mark.skipif(
    shutil.which("iverilog") is None or shutil.which("bwrap") is None, reason="iverilog or bubblewrap is not installed"
)

HEAD = "module m(input a, input b, input c, output y); "
REFERENCE = HEAD + "assign y = ~(a & b) | c; endmodule"
COUNTER = """module m(input clk, input rst_n, input en, output reg [3:0] q);
always @(posedge clk or negedge rst_n) if (!rst_n) q <= 0; else if (en) q <= q + 1; endmodule"""


@pytest.fixture(scope="module")
def shared():
    verifier = VerilogVerifier(RewardConfig())
    yield verifier
    verifier.close()


@pytest.fixture
def fresh():
    verifier = VerilogVerifier(RewardConfig())
    yield verifier
    verifier.close()


def request(response: str, reference: str = REFERENCE, testbench: str | None = None, top: str = "m") -> VerifyRequest:
    fields = {"reference_source": reference, "top_module": top, "testbench": testbench}
    return VerifyRequest(id=str(hash(response)), verifier="verilog", response=response, reference=fields)


def judge(verifier, *responses: str, **fields):
    verdicts = verifier.verify([request(response, **fields) for response in responses])
    assert [verdict.id for verdict in verdicts] == [str(hash(response)) for response in responses]
    return verdicts


def gates(expression: str) -> str:
    return HEAD + f"assign y = {expression}; endmodule"


def test_right_and_wrong(shared):
    """Equal functions pass whatever their form; the fraction of samples says how far a wrong one is."""
    right, wrong = judge(shared, gates("c | ~a | ~b"), gates("~(a | b) | c"))
    assert (right.status, right.reward, right.components["match"]) == (Status.SCORED, 1.0, 1.0)
    # they differ where exactly one of a and b is 1 and c is 0: two of eight vectors
    assert (wrong.status, wrong.reward, wrong.components["match"]) == (Status.SCORED, 0.0, 0.75)


def test_stuck_outputs_get_nothing(shared):
    """Constants, unknowns and an output left open are wrong."""
    verdicts = judge(shared, gates("1'b0"), gates("1'b1"), gates("1'bx"), gates("1'bz"), HEAD + "endmodule")
    assert [verdict.reward for verdict in verdicts] == [0.0] * 5
    assert [verdict.components["match"] for verdict in verdicts] == [0.125, 0.875, 0.0, 0.0, 0.0]


def test_bad_responses_are_malformed(shared):
    """What has no module, does not parse, does not compile or has other ports is judged all the same."""
    verdicts = judge(
        shared,
        "I cannot do this",
        gates("(a"),
        gates("d"),
        "module m(input a, input b, output y); assign y = a; endmodule",
        gates("a").replace("module m", "module n", 1),
    )
    assert {verdict.status for verdict in verdicts} == {Status.MALFORMED}
    assert [verdict.components["parse"] for verdict in verdicts] == [0.0, 0.0, 1.0, 1.0, 0.0]
    assert all(verdict.detail and verdict.reward == 0.0 for verdict in verdicts)


def test_a_port_of_another_width_is_wrong(shared):
    """A design that would pass if its port were cut to size does not pass."""
    (verdict,) = judge(
        shared, "module m(input [1:0] a, input b, input c, output y); assign y = ~(a[0] & b) | c; endmodule"
    )
    assert (verdict.status, verdict.reward) == (Status.SCORED, 0.0)
    assert "port a has 2 bits, expected 1" in verdict.detail


def test_one_bad_design_costs_only_itself(fresh):
    """In one batch: compile errors, other widths, hangs in four places, and every good neighbour still passes."""
    good = [gates(f"~(a & b) | c | ({'a & ~a & ' * count}b & ~b)") for count in range(40)]
    bad = [
        gates("d"),
        gates("undeclared(a)"),
        HEAD + "nothing u(a); endmodule",
        "module m(input a, output y); assign y = a; endmodule",
        HEAD + "reg q; always @* begin q = a; while (1); end assign y = q; endmodule",
        HEAD + "reg q; initial forever q = ~q; assign y = q; endmodule",
        HEAD + "reg q = 0; always @(q) q <= ~q; initial q <= 1; assign y = q; endmodule",
        gates("~(y & b)"),
    ]
    mixed = [one for pair in zip(good, bad * 5, strict=True) for one in pair]
    verdicts = judge(fresh, *mixed)
    assert [verdict.reward for verdict in verdicts[0::2]] == [1.0] * 40
    assert [verdict.reward for verdict in verdicts[1::2]] == [0.0] * 40
    assert [verdict.status for verdict in verdicts[1:16:2]] == [
        *[Status.MALFORMED] * 4,
        *[Status.TIMEOUT] * 3,
        Status.SCORED,
    ]


def test_a_loop_that_never_settles_is_wrong_at_once(fresh):
    """Gates feeding back oscillate in simulated time, so they cost no timeout; a latch made of gates still works."""
    started = time.monotonic()
    (verdict,) = judge(fresh, gates("~(y & a)"))
    assert (verdict.status, verdict.reward) == (Status.SCORED, 0.0)
    latch = "module m(input s, input r, output q); wire n; assign q = ~(r | n); assign n = ~(s | q); endmodule"
    behaves = "module m(input s, input r, output reg q); always @* if (r) q = 0; else if (s) q = 1; endmodule"
    assert judge(fresh, latch, reference=latch)[0].reward == 1.0
    assert time.monotonic() - started < 20
    assert judge(fresh, behaves, reference=behaves)[0].reward == 1.0


@pytest.mark.parametrize(
    "meddler",
    [
        HEAD + "assign a = 1'b0; assign y = b; endmodule",
        HEAD + "nmos(a, b, c); assign y = b; endmodule",
        HEAD + "sub s(a); assign y = b; endmodule module sub(output q); assign q = 0; endmodule",
        HEAD + "initial begin #3 ; end assign y = tb.y0; endmodule",
        HEAD + "specify (a => y) = 1; endspecify endmodule",
        "module m(inout a, inout b, inout c, inout y); assign a = 0; assign y = 1; endmodule",
        "module m(output a, output b, output c, output y); assign a = 0; endmodule",
    ],
)
def test_a_design_cannot_touch_its_neighbours(fresh, meddler):
    """Driving its own inputs changes what nobody else sees."""
    others = [HEAD + f"reg q; always @* q = ~(a & b) | c; assign y = q; wire w{n}; endmodule" for n in range(6)]
    verdicts = judge(fresh, *others[:3], meddler, *others[3:])
    assert [verdict.reward for verdict in verdicts] == [1.0] * 3 + [0.0] + [1.0] * 3


def test_equal_names_in_one_batch(fresh):
    """Helper modules of the same name belong to their own design."""

    def with_helper(expression: str) -> str:
        return (
            HEAD + f"h u(a, b, c, y); endmodule module h(input p, q, r, output s); assign s = {expression}; endmodule"
        )

    verdicts = judge(fresh, with_helper("~(p & q) | r"), with_helper("p"), with_helper("r | ~q | ~p"))
    assert [verdict.reward for verdict in verdicts] == [1.0, 0.0, 1.0]


def test_memory_of_earlier_vectors_is_caught(shared):
    """A latch that happens to be right when vectors come in counting order is not the function."""
    reference = "module m(input a, input b, output y); assign y = a & b; endmodule"
    # counting a,b = 00 01 10 11: y is 0 until the last; this one never returns to 0
    sticky = "module m(input a, input b, output reg y); initial y = 0; always @* if (a & b) y = 1; endmodule"
    assert judge(shared, sticky, reference=reference)[0].reward == 0.0


def test_sequential_reference(shared):
    """A counter: right, late reset, wrong edge, no enable, and one off in the carry."""
    verdicts = judge(
        shared,
        COUNTER,
        COUNTER.replace("posedge clk or negedge rst_n", "posedge clk"),
        COUNTER.replace("posedge clk", "negedge clk"),
        COUNTER.replace("if (en)", ""),
        COUNTER.replace("q + 1", "(q == 14 ? 0 : q + 1)"),
        reference=COUNTER,
    )
    assert [verdict.reward for verdict in verdicts] == [1.0, 0.0, 0.0, 0.0, 0.0]


def test_reference_called_otherwise(shared):
    """A reference may have a name of its own; the response must have the wanted one."""
    reference = REFERENCE.replace("module m", "module RefModule")
    right, misnamed = judge(shared, REFERENCE, reference, reference=reference)
    assert (right.reward, misnamed.status) == (1.0, Status.MALFORMED)


@pytest.mark.parametrize(
    "reference",
    [
        "module m(",
        gates("d"),
        HEAD + "endmodule",
        "module m(inout a, output y); endmodule",
        "module m(input a); endmodule",
        "",
    ],
)
def test_a_useless_reference_is_an_error_of_ours(shared, reference):
    """It never makes a response wrong."""
    (verdict,) = judge(shared, REFERENCE, reference=reference)
    assert verdict.status == Status.ERROR
    assert "reference" in verdict.detail


def test_missing_reference_fields(shared):
    """One sentence says what a reference has."""
    lacking = dataclasses.replace(request(REFERENCE), reference={"top_module": "m"})
    (verdict,) = shared.verify([lacking])
    assert verdict.status == Status.ERROR
    assert "reference_source" in verdict.detail


def test_equal_designs_are_simulated_once(fresh, monkeypatch):
    """Two simulations (references, responses) for a batch of duplicates, and none the second time."""
    runs = []
    run = fresh._sandbox.run
    monkeypatch.setattr(fresh._sandbox, "run", lambda *arguments: runs.append(1) or run(*arguments))
    responses = [gates("a"), gates(" a "), gates("b"), gates("a /* same */")] * 8
    first = judge(fresh, *responses)
    assert len(runs) == 2
    again = judge(fresh, *responses)
    assert len(runs) == 2
    assert [verdict.components for verdict in first] == [verdict.components for verdict in again]
    judge(fresh, gates("a"), reference=gates("b"))  # both traces are known
    assert len(runs) == 2


def test_a_timeout_by_the_wall_clock_is_not_remembered():
    """Only what another try would repeat is remembered: here the machine was slow, not the design."""
    verifier = VerilogVerifier(RewardConfig(deadline_s=0.3, verilog=VerilogConfig(simulate_cpu_s=60)))
    hang = HEAD + "reg q; always @* begin q = a; while (1); end endmodule"
    runs = []
    run = verifier._sandbox.run
    judge(verifier, REFERENCE)
    verifier._sandbox.run = lambda *arguments: runs.append(1) or run(*arguments)
    assert [judge(verifier, hang)[0].status for _ in range(2)] == [Status.TIMEOUT] * 2
    assert len(runs) == 2
    verifier.close()


def test_wide_combinational_designs(shared):
    """Too many inputs to try all: random vectors and corners still tell an adder from one without carry."""
    head = "module m(input [15:0] a, input [15:0] b, output [16:0] s); "
    right, wrong = judge(
        shared,
        head + "assign s = b + a; endmodule",
        head + "assign s = a ^ b; endmodule",
        reference=head + "assign s = a + b; endmodule",
    )
    assert (right.reward, wrong.reward) == (1.0, 0.0)


def test_no_inputs(shared):
    """A constant is compared once."""
    head = "module m(output [3:0] y); "
    right, wrong = judge(
        shared,
        head + "assign y = 4'b1010; endmodule",
        head + "assign y = 5; endmodule",
        reference=head + "assign y = 10; endmodule",
    )
    assert (right.reward, wrong.reward) == (1.0, 0.0)


@pytest.mark.parametrize(
    "bomb",
    [
        HEAD + "reg [7:0] mem [0:2000000000]; assign y = mem[0][a]; endmodule",
        HEAD + "wire [100000000:0] w = {100000000{a}}; assign y = ^w; endmodule",
        HEAD + "genvar i; for (i = 0; i < 100000000; i = i + 1) begin : g wire w = a; end endmodule",
        HEAD
        + "function integer f(input integer n); f = n < 2 ? n : f(n - 1) + f(n - 2); endfunction localparam N = f(60);"
        + " endmodule",
        HEAD + "m u(a, b, c, y); endmodule",
        HEAD + "reg q; always @* repeat (2000000000) q = ~q; assign y = q; endmodule",
    ],
)
def test_bombs_end_at_a_limit(fresh, bomb):
    """Compiler and simulator bombs end, none as a pass, and a neighbour passes."""
    started = time.monotonic()
    neighbour = HEAD + "reg q; always @* q = ~(a & b) | c; assign y = q; endmodule"
    bad, good = judge(fresh, bomb, neighbour)
    assert good.reward == 1.0
    assert bad.reward == 0.0
    assert time.monotonic() - started < 45
