"""What a design may not contain, each attack in its own words; and what it may, so that honest designs pass."""

import contextlib
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from reward.verilog.design import parse_design
from reward.verilog.errors import Rejected


def inside(statement: str) -> str:
    return f"module m(input clk, input a, output reg y);\n{statement}\nendmodule"


def refused(source: str, foreign: frozenset[str] = frozenset()) -> str:
    with pytest.raises(Rejected) as rejected:
        parse_design(source, "m", foreign=foreign)
    return str(rejected.value)


ATTACKS = {
    "ends the simulation": [
        inside("initial $finish;"),
        inside("reg \\$finish ; initial \\$finish ;"),  # iverilog strips the backslash
        inside('task \\$display (input x); endtask initial \\$display ("Passed");'),
        inside("initial $finish(0);"),
        inside("initial begin #5 $stop; end"),
        inside('initial $fatal(0, "x");'),
        inside("always @(posedge clk) begin y <= a; if (a) $finish; end"),
        inside("final y = 1;"),
        inside('final $display("Mismatches: 0 in 20 samples");'),
        inside("`define E $finish\ninitial `E;"),
    ],
    "files and the host": [
        inside('integer f; initial f = $fopen("/tmp/x");'),
        inside('initial $fdisplay(1, "Mismatches: 0 in 5 samples");'),
        inside('initial $readmemh("s.txt", y);'),
        inside('initial $writememb("s.txt", y);'),
        inside('initial $dumpfile("x.vcd");'),
        inside("initial $dumpvars;"),
        inside('initial $system("touch /tmp/x");'),
        inside('initial y = $test$plusargs("x");'),
        inside('string s; initial $sformat(s, "x");'),
        '`include "/etc/passwd"\n' + inside(""),
        "`include </etc/passwd>\n" + inside(""),
        inside('`include "harness.sv"'),
        inside('import "DPI-C" function int system(string s);'),
        "`pragma protect\n" + inside(""),
        '`line 1 "s.v" 0\n' + inside(""),
    ],
    "names outside": [
        inside("initial y = tb.good1.out;"),
        inside("assign a = tb.x;"),
        inside("wire w = $root.tb.q_ref;"),
        inside("always @(tb.clk) y = 1;"),
        inside("initial tb.stats1.errors = 0;"),
        inside("initial tb.done;"),
        inside("initial wavedrom_stop;"),
        inside("initial wavedrom_stop();"),
        inside("wire w = compare(1);"),
        inside("initial disable tb;"),
        inside("initial -> tb.e;"),
        inside("initial y = m.a;"),
        inside("initial y = u.v.w;"),
        inside("import pk::*;"),
        inside("initial y = pk::x;"),
        inside("initial y = $unit::x;"),
        inside("defparam tb.N = 1;"),
        inside("initial assign tb.x = 1;"),
        inside("import pk::*;") + " package other; endpackage",
        inside("wire w = $unit::x;"),
        inside("wire w = \\tb .x;"),
    ],
    "overriding": [
        inside("initial force a = 1;"),
        inside("initial force tb.q_ref = y;"),
        inside("initial release a;"),
        inside("alias a = clk;"),
        inside("supply0 g; tran(a, g);"),
        "module m(a, y); input a; output y; supply0 a; endmodule",
        "module m(input a, output y); supply0 a; endmodule",
        "module m(input a, output y); supply0 g; s u(a, g); endmodule module s(x, x); inout x; endmodule",
        "module m(input a, output y); s u(a, y); endmodule module s(.p(x), .q(x)); inout x; endmodule",
        "module m(.a({x, x}), y); input x; output y; endmodule",
        "module m(input .a({x, x}), output y); wire x; endmodule",
        inside("initial assert (a) else y = 0;"),
        inside("initial assert (a) begin force a = 1; end"),
        inside("initial assert (a) else -> tb.e;"),
        inside("pulldown(a);"),
        "module m(input supply0 a, output y); endmodule",
        "module m(input tri0 a, output y); endmodule",
        inside("bind tb RefModule r();"),
    ],
    "other modules": [
        inside("RefModule r(.a(a), .y(y));"),
        inside("tb t();"),
        inside("") + inside(""),
        inside("module n; endmodule"),
        inside("") + " program p; endprogram",
        inside("") + " interface i; endinterface",
        inside("u g(y, a);"),
        "extern module m(input a);" + inside(""),
        inside("") + " class c; endclass",
        inside("") + " bind tb m m1();",
        inside("") + " config c; design m; endconfig",
        "module n; endmodule",
    ],
    "chance and time": [
        inside("initial y = $random;"),
        inside("initial y = $urandom_range(1);"),
        inside("always @(posedge clk) y <= $time > 100;"),
        inside("always @(posedge clk) y <= $realtime > 100;"),
    ],
    "hidden by the preprocessor": [
        "`define F(x) x\n" + inside("initial `F($finish);"),
        "`define A `B\n`define B $finish\n" + inside("initial `A;"),
        "`define A aaaa\n`define B `A`A`A`A`A`A`A`A\n" + inside("wire `B;"),
        inside('initial y = """x""";'),
        inside("`undefineall"),
        inside('`begin_keywords "1364-1995"\n`end_keywords'),
        inside("initial y = \0;"),
        "`define F(x) $``x\n" + inside("initial `F(finish);"),
        '`define F(x) `"x`"\n' + inside("initial y = `F(a);"),
        "`define include x\n" + inside("`include"),
        "`define A `A\n" + inside("`A"),
        "`define A `B `B\n`define B `A `A\n" + inside("`A"),
        "`define F(a) a a a a a a a a\n" + inside("wire " + "`F(" * 20 + "x" + ")" * 20 + ";"),
        inside("wire \\a`include ;"),
        inside("`unconnected_drive pull1"),
        inside('initial y = `__FILE__ == "s.v";'),
        inside("initial y = 1; /* no end"),
        inside("initial y = \b1;"),
        inside("wire \ud800;"),
        "`ifdef A\n" + inside(""),
        inside("`endif"),
        inside("/* " + "x" * 70_000 + " */"),
    ],
    "broken": ["module m(; endmodule", "module m(input a", "endmodule", inside("assign y = (a;"), inside("y <=;")],
}


@pytest.mark.parametrize(("kind", "source"), [(kind, one) for kind, many in ATTACKS.items() for one in many])
def test_attacks_are_refused(kind, source):
    """Each attack is refused with a reason, before anything runs."""
    assert refused(source)


@pytest.mark.parametrize(
    "source",
    [
        inside('// $finish; `include "x"\nassign y = a;'),
        inside("/* force a = 1; tb.x */ always @* y = a;"),
        inside('/* ` */ always @* y = a; // ` " '),
        inside('initial $display("$finish; `include tb.x // /*");'),
        inside('initial $display("a \\" ; // still text"); /* " */ always @* y = a;'),
        inside("reg \\force ; always @* \\force = a;"),
        inside("reg \\tb.x ; always @* \\tb.x = a;"),
    ],
)
def test_comments_strings_and_escaped_names_never_trigger(source):
    """Only what the language reads as a construct counts as one."""
    parse_design(source, "m")


def test_what_is_printed_is_dropped():
    """A printing task is harmless and leaves nothing to print, argument and all."""
    text = parse_design(inside('always @* begin y = a; $display("Mismatches: 0", $time, tb.x); end'), "m").text
    assert "display" not in text
    assert "y = a ; begin end end" in text


@pytest.mark.parametrize(
    "source",
    [
        inside("always @(posedge clk or negedge a) if (!a) y <= 0; else y <= ~y;"),
        inside(
            "typedef enum logic {A, B} t; t s; always_ff @(posedge clk) case (s) A: s <= B; default: y <= 1; endcase"
        ),
        inside("function automatic [3:0] f(input [3:0] x); f = x + 1; endfunction always @* y = f(a);"),
        inside("task t; y = a; endtask always @* t;"),
        inside("genvar i; generate for (i = 0; i < 4; i = i + 1) begin : g wire w = a; end endgenerate"),
        inside("for (genvar i = 0; i < 4; i++) begin : g wire w; end assign y = g[0].w;"),
        inside("struct packed { logic p; logic q; } s; always_comb begin s.p = a; y = s.p; end"),
        inside("n u(.a(a), .y(y));") + "\nmodule n(input a, output y); assign y = a; endmodule",
        inside("n #(.W(3)) u(a, y);") + "\nmodule n #(parameter W = 1)(input a, output y); assign y = a; endmodule",
        inside("and g1(w, a, clk); wire w; localparam N = $clog2(9); reg [N-1:0] q [0:3];"),
        inside("integer i; always @* begin : b for (i = 0; i < 4; i = i + 1) begin if (a) disable b; y = 1; end end"),
        inside("(* full_case *) reg q; `ifdef SIM initial q = 0; `endif wire [3:0] s = {4{a}}; assign #1 y = s[3];"),
        "`timescale 1ns/1ps\n`default_nettype none\n`define W 4\n" + inside("wire [`W-1:0] w = `W'd3;") + "\n`resetall",
        "module m(clk, a, y); input clk, a; output y; reg y; always @(posedge clk) y = a; endmodule : m",
    ],
)
def test_honest_designs_pass(source):
    """The usual vocabulary of synthesisable Verilog is allowed."""
    parse_design(source, "m")


def test_a_name_of_the_harness_is_never_reached_through_a_local_one():
    """A dotted name or call that begins like something in the testbench is refused, declared inside or not."""
    source = inside("struct packed { logic ref1; } tb; always @* y = tb.ref1;")
    parse_design(source, "m")
    assert "leaves the design" in refused(source, foreign=frozenset(["tb"]))
    call = inside("task pass; endtask initial pass;")
    parse_design(call, "m")
    assert "leaves the design" in refused(call, foreign=frozenset(["pass"]))


def test_deep_and_long_sources_come_back_quickly():
    """No depth or length of text brings down the reader."""
    parse_design(inside("assign y = " + " + ".join(["a"] * 15_000) + ";"), "m")
    refused(inside("assign y = " + "(" * 20_000 + "a" + ")" * 20_000 + ";"))
    refused(inside("assign y = " + "~" * 60_000 + ";"))
    refused(inside("begin " * 10_000))


def test_an_escaped_name_is_the_name():
    """`\\tb ` is `tb`, so declaring the one does not make the other ours (seen to read a testbench's variables)."""
    never_built = "generate if (0) begin : g wire \\tb ; end endgenerate "
    assert "leaves the design" in refused(inside(never_built + "assign y = \\tb .q_ref;"), frozenset(["tb"]))
    assert "leaves the design" in refused(inside(never_built + "assign y = tb.q_ref;"), frozenset(["tb"]))


def test_what_a_design_declares_outside_modules_is_not_the_testbenchs():
    """A package or a function beside the module is the design's own, unless the testbench knows the name."""
    source = "function f(input x); f = x; endfunction " + inside("always @* y = f(a);")
    parse_design(source, "m", foreign=frozenset(["g"]))
    assert "that the testbench has, f" in refused(source, frozenset(["f"]))


def test_modules_that_the_top_does_not_use_are_left_out():
    """A testbench beside the answer is neither judged nor run; what the top uses is both."""
    bench = " module bench; m u(.a(1'b1)); initial begin $finish; $dumpvars; tb.x = 1; end endmodule"
    text = parse_design(inside("always @* y = a;") + bench, "m").text
    assert "bench" not in text
    assert "$dumpvars is not allowed" in refused(inside("n u(a);") + " module n(input a); initial $dumpvars; endmodule")


def test_checks_are_dropped():
    """Assertions, elaboration messages and specify blocks leave nothing behind, alone in a branch an empty block."""
    text = parse_design(
        inside(
            'assert property (@(posedge clk) a); if (1) $error("x"); specify (a => y) = 1; endspecify'
            " always @* begin y = a; l: assert (y) else $fatal(1); end"
        ),
        "m",
    ).text
    assert text.partition(") ; ")[2] == "if ( 1 ) begin end always @ * begin y = a ; begin end end endmodule"


HONEST = re.split(r"^//// (.*)\n", (Path(__file__).parent / "honest" / "designs.sv").read_text(), flags=re.MULTILINE)[
    1:
]


@pytest.mark.skipif(shutil.which("iverilog") is None, reason="iverilog is not installed")
@pytest.mark.parametrize("source", HONEST[1::2], ids=HONEST[::2])
def test_the_honest_designs_pass_and_compile(source, tmp_path):
    """What models and people write is not refused, and the simulator accepts what we make of it."""
    design = parse_design(source, "top")
    (tmp_path / "s.v").write_text(design.render("q") + "\n")
    command = ["iverilog", "-g2012", "-s", design.top_name("q"), "-o", "/dev/null", "s.v"]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize(
    "body",
    [
        "assign y = u" + ".a" * 20_000 + ";",
        "initial begin " + "f(a); " * 3_000 + "end",
        "supply0 g; " * 3_000,
        "`define F(a) a\n" + "`F(" * 4_000,
        "/*" * 30_000,
    ],
)
def test_hostile_text_costs_no_more_than_honest_text(body):
    """Reading is linear in the text (a chain of 20 000 dots once took five minutes)."""
    started = time.process_time()
    with contextlib.suppress(Rejected):
        parse_design(inside(body), "m")
    assert time.process_time() - started < 10.0
