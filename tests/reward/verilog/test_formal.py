"""What yosys proves about pairs of designs whose relation is known by construction."""

import shutil

import pytest

from reward.config import FormalConfig
from reward.deadline import Deadline
from reward.sandbox import Sandbox
from reward.verilog.design import parse_design
from reward.verilog.drive import Mode, driver, vectors
from reward.verilog.formal import Outcome, Prover
from reward.verilog.interface import Interface, Port, read_interface

pytestmark = pytest.mark.skipif(
    shutil.which("yosys") is None or shutil.which("bwrap") is None, reason="yosys or bubblewrap is not installed"
)

GATES = "module m(input a, input b, output y); {} endmodule"
COUNTER = """module m(input clk, input rst_n, input en, output reg [3:0] q);
always @(posedge clk or negedge rst_n) if (!rst_n) q <= 0; else if (en) q <= {next}; endmodule"""
REGISTER = "module m(input clk, input d, output reg q); always @({}) q <= d; endmodule"


@pytest.fixture(scope="module")
def sandbox():
    return Sandbox("bubblewrap")


def prove(sandbox, gold: str, gate: str, seconds: float = 20.0, **config):
    reference = parse_design(gold, "m", trusted=True)
    prover = Prover(sandbox, FormalConfig(**config))
    return prover.prove(reference, parse_design(gate, "m"), read_interface(gold, "m"), Deadline.after(seconds))


def test_gates(sandbox):
    """De Morgan holds for every input; or and xor differ for 11 only, which is the counterexample."""
    gold = GATES.format("assign y = ~(a & b);")
    assert prove(sandbox, gold, GATES.format("assign y = ~a | ~b;")).outcome == Outcome.EQUAL
    proof = prove(sandbox, GATES.format("assign y = a | b;"), GATES.format("assign y = a ^ b;"))
    assert (proof.outcome, proof.counterexample) == (Outcome.DIFFERENT, ("11",))


def test_the_counterexample_follows_the_order_of_the_interface(sandbox):
    """Bits are those of the inputs as the reference lists them, most significant first."""
    head = "module m(input [1:0] p, input [2:0] q, output y); "
    proof = prove(sandbox, head + "assign y = p == 2 & q == 6; endmodule", head + "assign y = 0; endmodule")
    assert proof.counterexample == ("10110",)


def test_a_constant_needs_no_inputs(sandbox):
    """A module without inputs has one vector, the empty one."""
    proof = prove(sandbox, "module m(output y); assign y = 0; endmodule", "module m(output y); assign y = 1; endmodule")
    assert (proof.outcome, proof.counterexample) == (Outcome.DIFFERENT, ("",))


def test_what_the_reference_leaves_open_is_free(sandbox):
    """An unknown bit of the reference allows anything; an unknown bit of the design does not pass for a known one."""
    open_gold = GATES.format("assign y = a ? b : 1'bx;")
    known = GATES.format("assign y = b;")
    assert prove(sandbox, open_gold, known).outcome == Outcome.EQUAL
    assert prove(sandbox, known, open_gold).outcome == Outcome.DIFFERENT


def test_one_counter_written_twice(sandbox):
    """Counters of one function agree for ever, whatever their style."""
    other = """module m(input clk, rst_n, en, output logic [3:0] q); logic [3:0] d; assign d = q + {3'b0, en};
    always_ff @(posedge clk, negedge rst_n) if (~rst_n) q <= '0; else q <= d; endmodule"""
    assert prove(sandbox, COUNTER.format(next="q + 1"), other).outcome == Outcome.EQUAL


def test_a_counter_that_wraps_early(sandbox):
    """The difference shows after nine counts: found within 16 cycles, not within 5; the counterexample gets there."""
    gold, gate = COUNTER.format(next="q + 1"), COUNTER.format(next="q == 8 ? 0 : q + 1")
    proof = prove(sandbox, gold, gate)
    assert proof.outcome == Outcome.DIFFERENT
    count, clock, seen = None, "0", []
    for clk, rst_n, en in proof.counterexample:
        if rst_n == "0":
            count = 0
        elif clk > clock and en == "1" and count is not None:
            count += 1
        clock = clk
        seen.append(count)
    assert max(filter(None, seen)) >= 9
    assert seen[0] == 0  # reset first
    assert prove(sandbox, gold, gate, depth=5).outcome == Outcome.EQUAL_TO_DEPTH


def test_edges_count(sandbox):
    """The solver has no edges of its own, yet a register of the other edge, or of both, is another circuit."""
    gold = REGISTER.format("posedge clk")
    assert prove(sandbox, gold, gold.replace("q <= d", "begin q <= d; end")).outcome == Outcome.EQUAL
    falling = prove(sandbox, gold, REGISTER.format("negedge clk"))
    assert falling.outcome == Outcome.DIFFERENT
    clocks = [vector[0] for vector in falling.counterexample]
    assert "01" in "".join(clocks)  # the clock is in the vectors, and rises
    latch = "module m(input clk, input d, output reg q); always @* if (clk) q = d; endmodule"
    assert prove(sandbox, latch, gold).outcome == Outcome.DIFFERENT
    assert prove(sandbox, latch, latch.replace("always @*", "always_latch")).outcome in (
        Outcome.EQUAL,
        Outcome.EQUAL_TO_DEPTH,
    )


def test_first_values_count(sandbox):
    """A register that starts at 1 is not one that starts at 0."""
    gold = REGISTER.format("posedge clk").replace("always", "initial q = 0; always")
    proof = prove(sandbox, gold, gold.replace("q = 0", "q = 1"))
    assert (proof.outcome, len(proof.counterexample)) == (Outcome.DIFFERENT, 3)


def test_a_register_nobody_sets_is_unknown(sandbox):
    """Where the reference has no first value the design may have any, and not the other way round."""
    none = REGISTER.format("posedge clk").replace("q <= d", "if (d) q <= 1")
    zero = none.replace("always", "initial q = 0; always")
    assert prove(sandbox, none, zero).outcome in (Outcome.EQUAL, Outcome.EQUAL_TO_DEPTH)
    assert prove(sandbox, zero, none).outcome == Outcome.DIFFERENT


def test_memories_and_modules(sandbox):
    """A memory inside a submodule is compared word by word."""
    text = """module ram(input clk, input we, input [1:0] at, input [1:0] d, output [1:0] q);
    reg [1:0] words [0:3]; always @(posedge clk) if (we) words[at] <= d; assign q = words[at]; endmodule
    module m(input clk, input we, input [1:0] at, input [1:0] d, output [1:0] q); ram r(clk, we, at, d, q); endmodule"""
    assert prove(sandbox, text, text).outcome in (Outcome.EQUAL, Outcome.EQUAL_TO_DEPTH)
    assert prove(sandbox, text, text.replace("if (we)", "if (we & at != 3)")).outcome == Outcome.DIFFERENT


@pytest.mark.parametrize(
    ("gold", "gate", "reason"),
    [
        (GATES.format("assign y = a;"), GATES.format("real r; always @* r = 1.5; assign y = a;"), ""),
        (GATES.format("assign y = a;"), GATES.format("initial begin : b forever #1; end assign y = a;"), "yosys"),
        # y = ~(y & a) has no solution for a = 1: taken as an equation it would prove anything
        (GATES.format("assign y = ~a;"), GATES.format("assign y = ~(y & a);"), "Found 1 problems"),
        (GATES.format("assign y = a;"), GATES.format("assign y = a; assign y = b;"), "Found 1 problems"),
        (GATES.format("assign y = a;"), GATES.format("assign y = a ? 1'b1 : 1'bz;"), "tribuf"),
        (GATES.format("assign y = 1'bx;"), GATES.format("assign y = a;"), "unknown"),
        (GATES.format("assign y = a;"), "module m(input a, output y); assign y = a; endmodule", "No matching port"),
    ],
)
def test_what_cannot_be_decided_says_so(sandbox, gold, gate, reason):
    """What yosys cannot read, and what would make its equations mean nothing, is undecided with a reason."""
    proof = prove(sandbox, gold, gate)
    if reason:
        assert (proof.outcome, proof.counterexample) == (Outcome.UNDECIDED, None)
        assert reason in proof.detail
    else:
        assert proof.outcome in (Outcome.UNDECIDED, Outcome.EQUAL)


def test_limits_leave_it_undecided(sandbox):
    """A product that no solver finishes costs its CPU seconds, and a deadline that has passed costs nothing."""
    head = "module m(input [19:0] a, input [19:0] b, output [39:0] y); "
    gold, gate = head + "assign y = a * b; endmodule", head + "assign y = b * (a + 20'd1) - b; endmodule"
    proof = prove(sandbox, gold, gate, cpu_s=1)
    assert (proof.outcome, proof.detail) == (Outcome.UNDECIDED, "yosys did not end within its CPU time")
    assert prove(sandbox, gold, gate, seconds=0.0).outcome == Outcome.UNDECIDED


def test_drive_and_vectors_agree():
    """The Verilog that feeds the solver and the vectors read from it take a cycle apart in the same way."""
    one = Port(name="d", width=2)
    clocks = tuple(Port(name=name, width=1) for name in ("clk", "clk2", "rst"))
    interface = Interface(
        inputs=(*clocks, one), outputs=(one,), clocks=("clk", "clk2"), resets=(("rst", 1),), sequential=True
    )
    assert vectors(interface, Mode.CYCLE, [{0: "0", 1: "1", 2: "0", 3: "10"}]) == ("01010", "11010", "01010")
    assert vectors(interface, Mode.EDGE, [{0: "1", 1: "1", 2: "0", 3: "10"}]) == ("11010",)
    text = driver(interface, Mode.EDGE)
    assert "d0 = phase == 2;" in text
    assert "d1 = (phase == 1 ? f1 : h1);" in text
    assert "d2 = (phase == 0 ? (cycle != 3 ? 1'b1 : f2) : h2);" in text
    assert "d3 = (phase == 0 ? f3 : h3);" in text
    assert "trigger = differ && cycle != 0;" in text  # the simulator's first vector is an edge more
    assert "trigger = differ;" in driver(interface, Mode.CYCLE)
