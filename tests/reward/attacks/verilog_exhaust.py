# ruff: noqa: E501 - an attack is read, and compared with its neighbours, in one line
"""Attacks that use up time, memory or output: of the reader, the compiler, the simulator."""

from tests.reward.attacks.verilog_attacks import ENDED, Attack, Body, spread

READER = {
    "parentheses": f"assign OUT_ = {'(' * 20_000}1{')' * 20_000};",
    "braces": f"assign OUT_ = {'{' * 20_000}1{'}' * 20_000};",
    "operators": f"assign OUT_ = {'~' * 50_000}1;",
    "begins": "initial " + "begin " * 9_000 + "end " * 9_000,
    "ifs": "initial " + "if (1) " * 8_000 + ";",
    "else-ifs": "initial if (0) ; " + "else if (0) ; " * 4_000,
    "questions": f"wire w = {'1 ? ' * 8_000}1{' : 0' * 8_000};",
    "generates": "generate " + "if (1) begin " * 4_000 + "end " * 4_000 + "endgenerate",
    "concatenations": "wire w = " + "{" * 3_000 + "1" + "}" * 3_000 + ";",
    "indices": "wire w = a" + "[a" * 10_000 + "]" * 10_000 + ";",
    "a million characters": "wire w = 1" + " + 1" * 250_000 + ";",
    "macros in macros": Body(
        text="wire w = `Z;",
        before="".join(f"`define {b} `{a}`{a}`{a}`{a}\n" for a, b in zip("ABCDEFG", "BCDEFGZ", strict=True)),
    ),
    "macros in a row": Body(text="wire [9:0] w = 1" + " + `L" * 2_000 + ";", before=f"`define L {'1 + ' * 50}1\n"),
    "a macro that uses itself": Body(text="wire w = `A;", before="`define A `A\n"),
    "delays": "initial " + "#1 " * 10_000 + ";",
    "events": "initial @(" + " or ".join(["CLK"] * 10_000) + ") ;",
    "many modules": Body(text="", after="".join(f"module m{i}; endmodule\n" for i in range(2_000))),
    "many ports": Body(text="", after=f"module m({', '.join(f'input p{i}' for i in range(4_000))}); endmodule\n"),
    "a long name": f"wire {'x' * 60_000};",
    "a long number": f"wire w = {'9' * 50_000};",
    "a long string": f'reg [7:0] s = "{"x" * 50_000}";',
}

COMPILER = {
    "constant function": "function integer f(input integer n); integer i; begin f = 0; for (i = 0; i < 2000000000; i = i + 1)"
    " f = f + 1; end endfunction localparam P = f(1); wire [P:0] w;",
    "recursive constant function": "function automatic integer f(input integer n); f = f(n + 1); endfunction localparam P = f(1);"
    " wire [P:0] w;",
    "forever in a constant function": "function integer f(input integer n); begin f = 0; while (1) f = 1; end endfunction"
    " localparam P = f(1); wire [P:0] w;",
    "generate loop": "genvar i; generate for (i = 0; i < 10000000; i = i + 1) begin : g wire w; assign w = i; end endgenerate",
    "nested generate loops": "genvar i, j; generate for (i = 0; i < 5000; i = i + 1) begin : g for (j = 0; j < 5000; j = j + 1)"
    " begin : h reg [63:0] r; end end endgenerate",
    "generate loop without an end": "genvar i; generate for (i = 0; i < 2; i = i * 1) begin : g wire w; end endgenerate",
    "recursive module": Body(text="r #(1) u();", after="module r #(parameter N = 0); r #(N + 1) u(); endmodule\n"),
    "doubling modules": Body(
        text="d0 u();",
        after="".join(f"module d{i}; d{i + 1} a(); d{i + 1} b(); endmodule\n" for i in range(30))
        + "module d30; endmodule\n",
    ),
    "array of instances": Body(text="e u [0:99999999] ();", after="module e; reg r; endmodule\n"),
    "giant vector": "reg [2000000000:0] r; initial r = 1;",
    "giant vector of wires": "wire [100000000:0] w; assign w = ~w;",
    "giant memory": "reg [1023:0] m [0:2000000000]; initial m[0] = 1;",
    "giant array of nets": "wire [31:0] m [0:50000000];",
    "replication": "wire [7:0] w = {1000000000{1'b1}};",
    "nested replication": "wire [7:0] w = {1000{{1000{{1000{{1000{1'b1}}}}}}}};",
    "shift": "localparam P = 1 << 30; wire [P*P:0] w; localparam Q = 1'b1 << 2000000000;",
    "power": "localparam [99999999:0] P = 3 ** 99999999; wire w = P[5];",
    "multiplication": "wire [200000:0] a1, b1; wire [400000:0] p = a1 * b1; assign a1 = {200001{IN_}}; assign b1 = ~a1;",
    "division": "wire [60000:0] a1 = {60001{IN_}}; wire [60000:0] p = a1 / (a1 >> 7); always @* OUT_ = p;",
    "case items": "reg r; always @(CLK) case (IN_) " + " ".join(f"{i}: r = 1;" for i in range(6_000)) + " endcase",
    "parameters in a ring": "parameter A = B + 1; parameter B = A + 1; wire [A:0] w;",
    "enumeration": "enum { A[100000000] } e;",
    "struct": "struct packed { logic [99999999:0] a; logic [99999999:0] b; } s; initial s = 1;",
    "bits of a giant": "localparam P = $bits({999999999{8'd1}}); wire [P:0] w;",
    "unrolled sensitivity": "reg [7:0] m [0:9999999]; integer i; always @* for (i = 0; i < 10000000; i = i + 1) m[i] = IN_;",
}

SIMULATOR = {
    "always without delay": "always OUT_ = ~OUT_;",
    "forever": "initial forever OUT_ = 1;",
    "while": "integer i; initial while (1) i = 1;",
    "long for": "integer i; initial for (i = 0; i < 2000000000; i = i + 1) OUT_ = i;",
    "repeat": "initial repeat (2000000000) OUT_ = ~OUT_;",
    "zero delays": "always #0 OUT_ = ~OUT_;",
    "wait for one": "initial forever wait (1) OUT_ = 1;",
    "combinational loop": "wire x, y1; assign x = (y1 === 1'b1) ? 1'b0 : 1'b1; assign y1 = x;",
    "ring of gates": "wire p, q1; nand (p, q1, CLK); and (q1, p, p);",
    "two always that wake each other": "reg p = 0, q1 = 0; always @(p) q1 = ~p; always @(q1) p = q1; initial #1 p = 1;",
    "event that wakes itself": "event e; always @(e) -> e; initial #1 -> e;",
    "nonblocking loop": "reg p = 0; always @(p) p <= ~p; initial #1 p <= 1;",
    "at every edge": "integer i; always @(CLK) for (i = 0; i < 100000000; i = i + 1) OUT_ = i;",
    "late": "integer i; initial begin #80 for (i = 0; i < 2000000000; i = i + 1) OUT_ = i; end",
    "fork bomb": "task automatic t; fork t; t; join endtask initial t;",
    "recursive task": "task automatic t(input integer n); t(n + 1); endtask initial t(0);",
    "recursive function": "function automatic integer f(input integer n); f = f(n + 1) + 1; endfunction integer i; initial i = f(0);",
    "forks without end": "initial forever fork #1000000 OUT_ = 1; join_none",
    "flood of events": "integer i; initial for (i = 0; i < 100000000; i = i + 1) OUT_ <= #i i;",
    "femtosecond clock": Body(
        text="reg c = 0; always #0.000001 c = ~c; always @(c) OUT_ = c;", before="`timescale 1ns/1fs\n"
    ),
    "wide arithmetic": "reg [9999:0] v = 3; always @(CLK) repeat (100000) v = v * v + 1;",
    "wide power": "reg [9999:0] v = 3; always @(CLK) v = v ** v;",
    "memory copied": "reg [1023:0] m [0:99999]; integer i; always @(CLK) for (i = 0; i < 100000; i = i + 1) m[i] = ~m[i];",
    "disable in a loop": "always begin : b disable b; end",
    "print flood": 'initial forever $display("x");',
    "print flood at every edge": "integer i; always @(CLK) for (i = 0; i < 100000000; i = i + 1) $display(i);",
    "flood of a file": 'integer f; initial begin f = $fopen("CANARY"); forever $fdisplay(f, "x"); end',
    "wait for ever": Body(text="initial wait (0) OUT_ = 1;", alone=True),
    "never an event": Body(text="event e; always @(e) OUT_ = 1;", alone=True),
    "delay for ever": Body(text="initial #(64'hffffffffffffffff) OUT_ = 1;", alone=True),
}

# They hold a core until a limit ends them. One of each kind is left out of the lists, so that it is tried in every run.
HOLD_THE_COMPILER = frozenset(COMPILER) & {
    *("forever in a constant function", "generate loop", "nested generate loops", "generate loop without an end"),
    *("doubling modules", "array of instances", "power", "multiplication", "division", "enumeration"),
    "unrolled sensitivity",
}
HOLD_THE_SIMULATOR = frozenset(SIMULATOR) & {
    *(
        "while",
        "long for",
        "repeat",
        "zero delays",
        "wait for one",
        "ring of gates",
        "nonblocking loop",
        "at every edge",
    ),
    *("late", "fork bomb", "recursive task", "recursive function", "flood of events", "wide arithmetic", "wide power"),
    *("memory copied", "print flood", "print flood at every edge", "combinational loop", "always without delay"),
    *("two always that wake each other", "event that wakes itself", "forks without end", "disable in a loop"),
}

EXHAUSTING: tuple[Attack, ...] = (
    *spread("reader", READER, ("counter", "stepper"), statuses=ENDED),
    *spread("compiler", COMPILER, ("counter",), statuses=ENDED, slow=HOLD_THE_COMPILER),
    *spread("compiler", COMPILER, ("eval", "stepper"), statuses=ENDED, slow=frozenset(COMPILER)),
    *spread("simulator", SIMULATOR, ("counter", "handshake"), statuses=ENDED, slow=HOLD_THE_SIMULATOR),
)
