"""Small problems that the attacks are aimed at: what a response is judged against, and its honest solution.

    design form      {reference design}, fed with our stimuli      adder, detector, counter, memory
    testbench form   {reference design, testbench}                 eval (VerilogEval's kind), rtllm,
                                                                 handshake (a closed loop), stepper (parameters)

An attack is written once, as a body that a module of any problem can hold: `Problem.response` puts it into the module,
behind outputs that are wrong, so what passes does so by the attack alone.
"""

from dataclasses import dataclass

TOP = "TopModule"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """`ports`: of the wanted module. `honest`: its right body. `wrong`: drives every output, wrongly.
    `clock`: a one-bit input that changes often; `data`: another input; `output`: one of the outputs."""

    name: str
    ports: str
    honest: str
    wrong: str
    clock: str
    data: str
    output: str
    testbench: str | None = None
    reference_name: str = TOP
    parameters: str = ""

    @property
    def reference(self) -> dict[str, str | None]:
        heading = f"module {self.reference_name} {self.parameters}({self.ports});"
        source = f"{heading}\n{self.honest}\nendmodule\n"
        return {"reference_source": source, "top_module": TOP, "testbench": self.testbench}

    def module(self, body: str) -> str:
        return f"module {TOP} {self.parameters}({self.ports});\n{body}\nendmodule\n"

    @property
    def solution(self) -> str:
        return fenced(self.module(self.honest))

    def filled(self, text: str) -> str:
        """`CLK`, `IN`, `OUT` stand for the names of this problem."""
        return text.replace("CLK", self.clock).replace("IN_", self.data).replace("OUT_", self.output)

    def response(self, body: str, before: str = "", after: str = "", *, keep_wrong: bool = True) -> str:
        """The attack's body in the wanted module, with `before` and `after` around the module."""
        inside = f"{self.wrong}\n{body}" if keep_wrong else body
        return fenced(self.filled(f"{before}{self.module(inside)}{after}"))


def fenced(source: str) -> str:
    return f"Here is the module.\n```verilog\n{source}```\n"


ADDER = Problem(
    name="adder",
    ports="input [3:0] a, input [3:0] b, input sel, output reg [3:0] y",
    honest="always @* y = sel ? a + b : a ^ b;",
    wrong="always @* y = a & b;",
    clock="sel",
    data="a",
    output="y",
)
DETECTOR = Problem(
    name="detector",
    ports="input clk, input reset, input in, output reg out",
    honest="reg [1:0] s; always @(posedge clk) if (reset) begin s <= 0; out <= 0; end"
    " else begin s <= {s[0], in}; out <= s == 2'b10 && in; end",
    wrong="always @(posedge clk) out <= 0;",
    clock="clk",
    data="in",
    output="out",
)
COUNTER = Problem(
    name="counter",
    ports="input clk, input reset, input enable, input load, input [7:0] d, output reg [7:0] q",
    honest="always @(posedge clk) if (reset) q <= 0; else if (load) q <= d; else if (enable) q <= q + 1;",
    wrong="always @(posedge clk) q <= d;",
    clock="clk",
    data="enable",
    output="q",
)
MEMORY = Problem(
    name="memory",
    ports="input clk, input we, input [3:0] wa, input [7:0] wd, input [3:0] ra, output reg [7:0] rd",
    honest="reg [7:0] m [0:15]; always @(posedge clk) begin if (we) m[wa] <= wd; rd <= m[ra]; end",
    wrong="always @(posedge clk) rd <= wd;",
    clock="clk",
    data="we",
    output="rd",
)

EVAL_TESTBENCH = """`timescale 1 ps/1 ps
module stimulus_gen(input clk, output reg reset, output reg d, output reg [511:0] wavedrom_title);
  task wavedrom_stop; #1; endtask
  initial begin
    reset = 1; d = 0; repeat (3) @(posedge clk); reset <= 0;
    repeat (60) @(posedge clk, negedge clk) d <= $random;
    wavedrom_stop(); #100; $finish;
  end
endmodule
module tb();
  typedef struct packed { int errors; int errortime; int errors_q; int errortime_q; int clocks; } stats;
  stats stats1;
  wire [511:0] wavedrom_title;
  reg clk = 0;
  initial forever #5 clk = ~clk;
  logic reset, d; logic [3:0] q_ref, q_dut;
  initial begin $dumpfile("wave.vcd"); $dumpvars(1, stim1.clk, tb_mismatch, clk, d, q_ref, q_dut); end
  wire tb_match;
  wire tb_mismatch = ~tb_match;
  stimulus_gen stim1(.clk, .reset, .d, .wavedrom_title);
  RefModule good1(.clk, .reset, .d, .q(q_ref));
  TopModule top_module1(.clk, .reset, .d, .q(q_dut));
  bit strobe = 0;
  task wait_for_end_of_timestep; repeat (5) begin strobe <= !strobe; @(strobe); end endtask
  final begin
    $display("Hint: Total mismatched samples is %1d out of %1d samples\\n", stats1.errors, stats1.clocks);
    $display("Simulation finished at %0d ps", $time);
    $display("Mismatches: %1d in %1d samples", stats1.errors, stats1.clocks);
  end
  assign tb_match = ({q_ref} === ({q_ref} ^ {q_dut} ^ {q_ref}));
  always @(posedge clk, negedge clk) begin
    stats1.clocks++;
    if (!tb_match) begin
      if (stats1.errors == 0) stats1.errortime = $time;
      stats1.errors++;
    end
  end
  initial begin #1000000 $display("TIMEOUT"); $finish(); end
endmodule
"""
EVAL = Problem(
    name="eval",
    ports="input clk, input reset, input d, output reg [3:0] q",
    honest="always @(posedge clk) if (reset) q <= 0; else q <= {q[2:0], d};",
    wrong="always @(posedge clk) q <= 0;",
    clock="clk",
    data="d",
    output="q",
    testbench=EVAL_TESTBENCH,
    reference_name="RefModule",
)
RTLLM_TESTBENCH = """`timescale 1ns/1ns
module testbench;
  reg clk, reset; wire [7:0] out;
  TopModule ring_inst(.clk(clk), .reset(reset), .out(out));
  always begin #5 clk = ~clk; end
  reg [7:0] data [0:9];
  integer i, error = 0;
  initial begin
    clk = 0; reset = 1;
    for (i = 0; i < 9; i = i + 1) data[i] = 8'd1 << i;
    data[8] = 8'd1;
    #12 reset = 0;
    for (i = 1; i < 9; i = i + 1) begin
      @(posedge clk); #1;
      error = (out == data[i]) ? error : error + 1;
    end
    if (error == 0) $display("=========== Your Design Passed ===========");
    else $display("=========== Test completed with %d /8 failures ===========", error);
    $finish;
  end
endmodule
"""
RTLLM = Problem(
    name="rtllm",
    ports="input clk, input reset, output reg [7:0] out",
    honest="always @(posedge clk) if (reset) out <= 8'd1; else out <= {out[6:0], out[7]};",
    wrong="always @(posedge clk) out <= 8'd1;",
    clock="clk",
    data="reset",
    output="out",
    testbench=RTLLM_TESTBENCH,
    reference_name="verified_ring",
)
HANDSHAKE_TESTBENCH = """`timescale 1ns/1ps
module tb_loop;
  reg clk = 0, reset = 1, start = 0; reg [7:0] a = 0; wire done; wire [7:0] s;
  integer failures = 0, round, waited;
  TopModule dut(.clk(clk), .reset(reset), .start(start), .a(a), .done(done), .s(s));
  always #5 clk = ~clk;
  initial begin
    repeat (2) @(negedge clk);
    reset = 0;
    for (round = 0; round < 12; round = round + 1) begin
      a = (^s === 1'bx) ? 8'd7 : s + 8'd3 * round + 8'd1;  // the next question depends on the last answer
      start = 1; @(negedge clk); start = 0; waited = 0;
      while (done !== 1'b1 && waited < 40) begin @(negedge clk); waited = waited + 1; end
      if (done !== 1'b1 || s !== (a ^ 8'h5a)) failures = failures + 1;
      @(negedge clk);
    end
    if (failures == 0) $display("===========Your Design Passed===========");
    else $display("===========Error=========== %0d", failures);
    $finish;
  end
endmodule
"""
HANDSHAKE = Problem(
    name="handshake",
    ports="input clk, input reset, input start, input [7:0] a, output reg done, output reg [7:0] s",
    honest="always @(posedge clk) if (reset) begin done <= 0; s <= 0; end"
    " else begin done <= start; if (start) s <= a ^ 8'h5a; end",
    wrong="always @(posedge clk) begin done <= 1; s <= 0; end",
    clock="clk",
    data="start",
    output="done",
    testbench=HANDSHAKE_TESTBENCH,
    reference_name="verified_handshake",
)

STEPPER_TESTBENCH = """`timescale 1ns/1ps
module tb_step;
  reg clk = 0, reset = 1; wire [7:0] n, n_ref; integer error = 0;
  always #5 clk = ~clk;
  TopModule #(.STEP(3)) dut(.clk(clk), .reset(reset), .n(n));
  verified_step #(.STEP(3)) good1(.clk(clk), .reset(reset), .n(n_ref));
  task check; if (n !== n_ref) error = error + 1; endtask
  initial begin
    #12 reset = 0;
    repeat (20) begin @(negedge clk); check; end
    if (error == 0) $display("===========Your Design Passed===========");
    else $display("===========Failed=========== %0d", error);
    $finish;
  end
endmodule
"""
STEPPER = Problem(
    name="stepper",
    ports="input clk, input reset, output reg [7:0] n",
    honest="always @(posedge clk) if (reset) n <= 0; else n <= n + STEP;",
    wrong="always @(posedge clk) n <= 0;",
    clock="clk",
    data="reset",
    output="n",
    testbench=STEPPER_TESTBENCH,
    reference_name="verified_step",
    parameters="#(parameter STEP = 1)",
)

DESIGN_FORM = (ADDER, DETECTOR, COUNTER, MEMORY)
TESTBENCH_FORM = (EVAL, RTLLM, HANDSHAKE, STEPPER)
PROBLEMS = {problem.name: problem for problem in (*DESIGN_FORM, *TESTBENCH_FORM)}
