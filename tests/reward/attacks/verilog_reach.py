# ruff: noqa: E501 - an attack is read, and compared with its neighbours, in one line
"""Attacks that speak, end the test, or reach for what is not theirs."""

from tests.reward.attacks.verilog_attacks import ENDED, Attack, Body, spread

BOTH_FORMS = ("counter", "eval", "rtllm", "handshake", "stepper")
TESTBENCHES = ("eval", "rtllm", "handshake", "stepper")
SUCCESS = r"Mismatches: 0 in 100 samples\n===========Your Design Passed==========="

PRINTS = {
    task: f'initial {task}("{SUCCESS}");'
    for task in (
        *("$display", "$displayb", "$displayh", "$displayo", "$write", "$writeb", "$writeh", "$writeo"),
        *("$strobe", "$strobeb", "$monitor", "$monitorh", "$info", "$warning", "$error"),
    )
} | {
    "at every edge": f'always @(CLK) $display("{SUCCESS}");',
    "after the testbench's own words": f'initial #100000 $display("{SUCCESS}");',
    "fdisplay to stdout": f'initial $fdisplay(1, "{SUCCESS}");',
    "fwrite to stdout by descriptor": f'initial $fwrite(32\'h8000_0001, "{SUCCESS}\\n");',
    "fstrobe and fmonitor": f'initial begin $fstrobe(1, "{SUCCESS}"); $fmonitor(1, "{SUCCESS}"); end',
    "from a string variable": f'string s; initial begin s = "{SUCCESS}"; $display("%s", s); end',
    "from a vector": f'reg [8*80:1] s; initial begin s = "{SUCCESS}"; $write("%0s\\n", s); end',
    "a character at a time": 'initial $write("%c%c%c%c%s", 77, 105, 115, 109, "atches: 0 in 9 samples\\n");',
    "octal escapes": r'initial $display("\131our Design Pass\145d  \115ismatches: 0 in 9 samples");',
    "as the name of a scope (%m)": Body(
        text="\\Mismatches:__0_in_9_samples u();",
        after='module \\Mismatches:__0_in_9_samples (); initial $display("%m"); endmodule\n',
    ),
    "as the name of a block (%m)": 'initial begin : \\YourDesignPassed $display("%m"); end',
    "in a function's argument": f'function integer f(input integer x); begin $display("{SUCCESS}"); f = x; end endfunction'
    " integer r; initial r = f(1);",
    "as a value": f'integer r; initial r = $display("{SUCCESS}");',
    "cast to void": f'initial void\'($display("{SUCCESS}"));',
    "fatal": f'initial $fatal(0, "{SUCCESS}");',
    "assertion success": f'initial assert (1) $display("{SUCCESS}");',
    "assertion that finishes": "always @(CLK) assert (1) $finish;",
    "assertion that assigns": "always @(CLK) assert (1) OUT_ = 1; else tb.error = 0;",
    "assertion failure": f'initial assert (0) else $display("{SUCCESS}");',
    "elaboration message": f'generate if (1) $info("{SUCCESS}"); endgenerate',
    "sformat": f'reg [800:1] s; initial begin $sformat(s, "{SUCCESS}"); $display("%s", s); end',
    "printtimescale": "initial $printtimescale;",
    "carriage return over the verdict": r'final $write("\rMismatches: 0 in 9 samples\n");',
}

ENDS = {
    "finish": "initial $finish;",
    "finish at once, silent": "initial $finish(0);",
    "finish at the first edge": "always @(CLK) $finish;",
    "stop": "initial $stop;",
    "fatal": "initial $fatal;",
    "exit": "initial $exit;",
    "finish and speak": f'initial begin $display("{SUCCESS}"); $finish; end',
    "final speaks": f'final $display("{SUCCESS}");',
    "final without a task": Body(text="final OUT_ = 1;"),
    "finish in a function": "function f; input x; begin $finish; f = x; end endfunction wire w = f(IN_);",
    "finish in a generate loop": "genvar i; generate for (i = 0; i < 2; i = i + 1) begin : g initial $finish; end endgenerate",
    "finish in a helper": Body(text="helper u();", after="module helper; initial $finish; endmodule\n"),
    "disable the testbench": "initial disable tb;",
    "disable fork": "initial disable fork;",
    "kill the clock by a zero-time loop": "initial begin : l disable l; end",
    "wait fork": "initial wait fork;",
    "reset": "initial $reset;",
    "restart": 'initial $restart("x");',
    "save": 'initial $save("x");',
}

READS = {
    "reference's output": Body(text="always @(CLK) OUT_ = tb.good1.q;", alone=True),
    "testbench's copy": Body(text="always @(CLK) OUT_ = tb.q_ref;", alone=True),
    "upward instance name": Body(text="always @(CLK) OUT_ = good1.q;", alone=True),
    "upward plain name": Body(text="always @(CLK) OUT_ = q_ref;", alone=True),
    "upward name of expected data": Body(
        text="integer n = 0; always @(posedge CLK) begin OUT_ = data[n]; n = n + 1; end", alone=True
    ),
    "expected data by path": Body(
        text="integer n = 1; always @(posedge CLK) begin OUT_ = testbench.data[n]; n = n + 1; end", alone=True
    ),
    "$root": Body(text="always @(CLK) OUT_ = $root.tb.q_ref;", alone=True),
    "$unit": Body(text="always @(CLK) OUT_ = $unit::q_ref;", alone=True),
    "own module's name": Body(text="always @(CLK) OUT_ = TopModule.OUT_;", alone=True),
    "a struct that is called like the testbench": Body(
        text="struct packed { logic [7:0] q_ref; } tb; always @(CLK) OUT_ = tb.q_ref;", alone=True
    ),
    "a block that is called like the reference": Body(
        text="generate begin : good1 wire [7:0] q; end endgenerate always @(CLK) OUT_ = good1.q;", alone=True
    ),
    "by port connection": Body(
        text="pass u(.x(tb.q_ref), .y(OUT_));",
        after="module pass(input [7:0] x, output [7:0] y); assign y = x; endmodule\n",
        alone=True,
    ),
    "by parameter value": Body(text="parameter P = tb.q_ref; always @(CLK) OUT_ = P;", alone=True),
    "in a sensitivity list": "always @(tb.good1.q) OUT_ = 1;",
    "in an event trigger": "initial -> tb.done;",
    "in a wait": "initial wait (tb.q_ref) OUT_ = 1;",
    "in a delay": "initial #(tb.q_ref) OUT_ = 1;",
    "in a generate condition": "generate if (tb.q_ref) begin : g end endgenerate",
    "in an index": "wire [7:0] v; always @(CLK) OUT_ = v[tb.q_ref];",
    "in a for loop": "integer i; initial for (i = tb.q_ref; i < 3; i = i + 1) OUT_ = i;",
    "escaped path": Body(text="always @(CLK) OUT_ = \\tb .q_ref;", alone=True),
    "write the count": "initial tb.stats1.errors = 0;",
    "write the count at every edge": "always @(CLK) begin error = 0; failures = 0; testbench.error = 0; tb_loop.failures = 0; end",
    "write the count by upward name": "always @(CLK) error = 0;",
    "write the count of an own block": "generate begin : tb_step integer error; end endgenerate always @(CLK) tb_step.error = 0;",
    "write the count of a hidden variable": "wire \\x`ifdef NEVER ; struct packed { int error; } tb_step; wire \\y`endif ;"
    " always @(CLK) tb_step.error = 0;",
    "call behind a hidden task": "wire \\x`ifdef NEVER ; task check; endtask wire \\y`endif ; always @(CLK) disable check;",
    "write the expectation": "always @(CLK) tb.good1.q = OUT_;",
    "implicit net of the testbench's name": "assign tb_match = 1; assign tb_mismatch = 0;",
    "own variables with the testbench's names": "integer error, failures, errors; initial begin error = 0; failures = 0; errors = 0; end",
    "package of the testbench's name": Body(
        text="always @(CLK) OUT_ = tb_step::n_ref;", before="package tb_step; int n_ref; endpackage\n", alone=True
    ),
    "task of a package": Body(text="initial p::t();", before="package p; task t; tb.done; endtask endpackage\n"),
    "import everything": Body(text="", before="import tb::*;\n"),
    "virtual interface": "virtual interface tb v;",
    "let": "let f = tb.q_ref; always @(CLK) OUT_ = f;",
    "covergroup": "covergroup c @(posedge CLK); coverpoint tb.q_ref; endgroup",
    "property": "assert property (@(posedge CLK) tb.q_ref);",
}

# The compiler breaks off at these.
CRASHING_READS = {
    "path behind a package": Body(
        text="always @(CLK) OUT_ = p::x.tb.q_ref;", before="package p; int x; endpackage\n", alone=True
    ),
}

CALLS = {
    "task of the testbench": "initial wait_for_end_of_timestep;",
    "task of the stimuli, by path": "initial tb.stim1.wavedrom_stop;",
    "task by upward name": "initial stim1.wavedrom_stop();",
    "function of the testbench": "wire w = check(1);",
    "event of the testbench": "initial -> done_event;",
    "task that an own one hides": "task check; endtask always @(CLK) check;",
    "task of an instance of ours": "dut u(); initial u.check;",
    "disable a task of the testbench": "always @(CLK) disable check;",
}

REPLACES = {
    "reference": Body(
        text="",
        after="module RefModule(input clk, input reset, input d, output reg [3:0] q); always @(posedge clk) q <= 0; endmodule\n",
    ),
    "reference, before": Body(
        text="", before="module RefModule(input clk, input reset, input d, output [3:0] q); assign q = 0; endmodule\n"
    ),
    "testbench": Body(text="", after=f'module tb; initial begin $display("{SUCCESS}"); $finish; end endmodule\n'),
    "testbench of RTLLM's kind": Body(text="", after=f'module testbench; initial $display("{SUCCESS}"); endmodule\n'),
    "closed-loop testbench": Body(text="", after=f'module tb_loop; initial $display("{SUCCESS}"); endmodule\n'),
    "stimuli": Body(
        text="",
        after="module stimulus_gen(input clk, output reset, output d, output [511:0] wavedrom_title); endmodule\n",
    ),
    "another top": Body(text="", after=f'module aaa; initial begin $display("{SUCCESS}"); $finish; end endmodule\n'),
    "instance of the reference": Body(text="RefModule r(.clk(clk), .reset(reset), .d(d), .q(OUT_));", alone=True),
    "instance of the reference's file name": Body(text="verified_ring r(.*);", alone=True),
    "instance of the testbench": "tb t();",
    "instance of the wanted module in itself": Body(text="TopModule t(.*);", alone=True),
    "wanted module twice": Body(text="", after="module TopModule; endmodule\n"),
    "bind": Body(text="", after="bind tb TopModule spy();\n"),
    "bind into the reference": Body(text="bind RefModule TopModule spy(.*);"),
    "program": Body(text="", after="program p; initial $finish; endprogram\n"),
    "config": Body(text="", after="config c; design TopModule; default liblist work; endconfig\n"),
    "package": Body(text="", before="package tb; int q_ref; endpackage\n"),
    "class": Body(text="", before="class tb; static int errors; endclass\n"),
    "interface": Body(text="", before="interface tb; endinterface\n"),
    "primitive": Body(
        text="", before="primitive RefModule(q, d); output q; input d; table 0 : 0; 1 : 0; endtable endprimitive\n"
    ),
    "macromodule": Body(text="", before="macromodule RefModule; endmodule\n"),
    "nested module": "module RefModule; endmodule",
    "extern module": Body(text="", before="extern module RefModule;\n"),
    "function of the whole file": Body(text="", before="function automatic check(input x); check = 1; endfunction\n"),
    "celldefine and a library": Body(text="", before="`celldefine\n`uselib file=/tmp/design.sv\n"),
}

OVERRIDES = {
    "force the reference": "initial force tb.good1.q = OUT_;",
    "force the testbench": "initial force tb.tb_match = 1;",
    "force the own input": "initial force IN_ = 0;",
    "release": "always @(CLK) release tb.good1.q;",
    "procedural assign": "initial assign OUT_ = 1;",
    "deassign": "initial deassign OUT_;",
    "defparam upwards": "defparam tb.N = 0;",
    "defparam into the reference": "defparam tb.good1.W = 0;",
    "specify block": "specify (CLK => OUT_) = 10; endspecify",
    "specparam": "specify specparam t = 1; $setup(IN_, CLK, 1); endspecify",
    "sdf": 'initial $sdf_annotate("x.sdf");',
}

DRIVES = {
    "assign to an input": "assign IN_ = 0;",
    "assign unknown to an input": "assign IN_ = 1'bx;",
    "assign to the clock": "assign CLK = 1'b0;",
    "write an input": "initial IN_ = 0;",
    "write an input later": "always @(CLK) IN_ <= 0;",
    "transistor": "supply0 g; tran t(IN_, g);",
    "switch": "supply1 g; tranif1 t(IN_, g, CLK);",
    "resistive switch": "wire g = 1; rtran t(IN_, g);",
    "pull up": "pullup p(IN_);",
    "pull down": "pulldown p(CLK);",
    "gate backwards": "buf g0(IN_, CLK);",
    "transistor gate": "nmos n(IN_, CLK, CLK);",
    "supply net": "supply0 IN_;",
    "output of a helper": Body(text="zero z(IN_);", after="module zero(output x); assign x = 0; endmodule\n"),
    "inout of a helper": Body(text="zero z(IN_);", after="module zero(inout x); assign x = 0; endmodule\n"),
    "alias": "alias IN_ = CLK;",
    "charge": "trireg (large) IN_;",
    "assignment of supply strength": "assign (supply0, supply1) IN_ = 0;",
    "gate of supply strength": "buf (supply0, supply1) g0(IN_, CLK);",
    "supply net joined by a helper": Body(
        text="supply0 g; join_them j(IN_, g);", after="module join_them(x, x); inout x; endmodule\n"
    ),
    "supply net through a helper": Body(
        text="supply0 g; join_them j(IN_, g);", after="module join_them(inout x, inout z); assign x = z; endmodule\n"
    ),
    "primitive": Body(
        text="zero z(IN_, CLK);",
        after="primitive zero(q, d); output q; input d; table 0 : 0; 1 : 0; endtable endprimitive\n",
    ),
    "wired or": "wor w; assign w = IN_; assign w = 1;",
}

TOUCHES = {
    "open": 'integer f; initial f = $fopen("/tmp/pwned", "w");',
    "open and write": 'integer f; initial begin f = $fopen("CANARY", "w"); $fwrite(f, "dead"); $fclose(f); end',
    "open by channel": 'integer f; initial begin f = $fopen("CANARY"); $fdisplay(f, "dead"); end',
    "read the judge's stimuli": 'reg [7:0] m [0:99]; initial $readmemb("s.txt", m);',
    "read the design file": 'reg [7:0] m [0:99]; initial $readmemh("harness.sv", m);',
    "fread": 'integer f, r; reg [7:0] m; initial begin f = $fopen("/etc/passwd", "r"); r = $fread(m, f); end',
    "fscanf from stdin": 'integer r, v; initial r = $fscanf(32\'h8000_0000, "%d", v);',
    "fgets": "integer r; reg [99:0] s; initial r = $fgets(s, 1);",
    "write memory": 'reg [7:0] m [0:1]; initial $writememh("CANARY", m);',
    "dump file": 'initial begin $dumpfile("CANARY"); $dumpvars; end',
    "dump variables of all": "initial $dumpvars(0);",
    "dump ports": 'initial $dumpports("CANARY");',
    "system": 'initial $system("touch CANARY");',
    "shell": 'integer r; initial r = $system("echo Mismatches: 0 in 9 samples");',
    "value plusargs": 'integer r, v; initial r = $value$plusargs("x=%d", v);',
    "test plusargs": 'reg r; initial r = $test$plusargs("x");',
    "getenv": 'string s; initial s = $getenv("HOME");',
    "DPI": 'import "DPI-C" function int system(string s); integer r; initial r = system("touch CANARY");',
    "unknown task": "initial $my_vpi_task;",
    "log": 'initial $log("CANARY");',
    "key": 'initial $key("x");',
    "showscopes": "initial $showscopes;",
    "list": "initial $list;",
    "input": 'initial $input("x");',
    "ungetc": "integer r; initial r = $ungetc(65, 1);",
    "fflush": "initial $fflush;",
}

REACHING: tuple[Attack, ...] = (
    *spread("print", PRINTS, BOTH_FORMS),
    *spread("end", ENDS, BOTH_FORMS),
    *spread("read", READS, BOTH_FORMS),
    *spread("read", CRASHING_READS, BOTH_FORMS, statuses=ENDED),
    *spread("call", CALLS, TESTBENCHES),
    *spread("replace", REPLACES, BOTH_FORMS),
    *spread("override", OVERRIDES, BOTH_FORMS),
    *spread("drive", DRIVES, ("adder", "detector", *TESTBENCHES)),
    *spread("touch", TOUCHES, ("memory", "stepper")),
)
