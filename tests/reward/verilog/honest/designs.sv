// Honest designs as models and people write them; each compiles with iverilog 11. A line `//// what` starts one; its
// module to judge is `top`.
//// gates with Verilog-95 ports
module top (a, b, c, y);
  input a, b, c;
  output y;
  wire n1, n2;
  nand #(1) g1 (n1, a, b);
  nand g2 (n2, n1, c), g3 (y, n2, n1);
endmodule
//// counter with Verilog-95 ports and parameter list in the body
module top (clk, reset, enable, count);
parameter WIDTH = 8;
parameter MAX = 200, STEP = 1;
input clk;
input reset;
input enable;
output [WIDTH-1:0] count;
reg [WIDTH-1:0] count;
  always @ (posedge clk or posedge reset)
    if (reset) begin
      count <= {WIDTH{1'b0}};
    end else if (enable) begin
      if (count == MAX)
        count <= 0;
      else
        count <= count + STEP;
    end
endmodule // top
//// macro with arguments
`define MAX(a, b) ((a) > (b) ? (a) : (b))
`define MIN(a,b) ((a) < (b) ? (a) : (b))
module top (input [7:0] x, input [7:0] y, output [7:0] hi, output [7:0] lo);
  assign hi = `MAX(x, y);
  assign lo = `MIN(x, `MAX(y, 8'd3));
endmodule
//// macros that use macros
`define WIDTH 8
`define MSB (`WIDTH-1)
`define ZERO {`WIDTH{1'b0}}
module top (input clk, input rst, input [`MSB:0] d, output reg [`MSB:0] q);
  always @(posedge clk) if (rst) q <= `ZERO; else q <= d;
endmodule
//// macro over several lines with a delay
`define DFF(clk, d, q) \
  always @(posedge clk) begin \
    q <= #1 d; \
  end
`define TCQ #1
module top (input clk, input d, output reg q, output reg p);
  `DFF(clk, d, q)
  always @(posedge clk) p <= `TCQ q;
endmodule
//// include guard
`ifndef TOP_V
`define TOP_V
`timescale 1ns / 1ps
`default_nettype none
module top (input wire a, output wire y);
  assign y = !a;
endmodule
`default_nettype wire
`endif // TOP_V
//// conditional debug code
`define DEBUG 1
module top (input clk, input a, output reg y);
`ifdef SIMULATION
  initial $display("simulating");
`elsif DEBUG
  initial y = 0;
`endif
  always @(posedge clk) begin
    y <= a;
`ifdef VERBOSE
    $display("%t a=%b", $time, a);
`endif
  end
endmodule
//// prints for the reader
module top (input clk, input [3:0] a, output reg [3:0] y);
  integer k;
  initial begin
    $display("top: started at %0t", $time);
    $monitor("%m a=%h y=%h", a, y);
    y = 0;
  end
  always @(posedge clk) begin
    for (k = 0; k < 4; k = k + 1) begin
      y[k] <= a[3-k];
      if (k == 3) $write("done\n");
    end
    if (a === 4'bx) $display("x at", $time);
    else $strobe("ok");
  end
endmodule
//// print inside a function
module top (input [3:0] a, output [3:0] y);
  function [3:0] twice(input [3:0] v);
    begin
      $display("twice %d", v);
      twice = v << 1;
    end
  endfunction
  assign y = twice(a);
endmodule
//// immediate assertions
module top (input clk, input [3:0] a, output logic [3:0] y);
  always_ff @(posedge clk) begin
    y <= a + 1;
    assert (a !== 4'bx);
    assert (a < 15) else $error("a is %0d", a);
    range: assert (a >= 0) begin $display("fine"); end else begin $display("not"); end
  end
  always_comb assert (y >= 0);
endmodule
//// concurrent assertions under a guard
module top (input clk, input a, output logic y);
  always_ff @(posedge clk) y <= a;
`ifdef FORMAL
  p: assert property (@(posedge clk) a |=> y);
`endif
endmodule
//// defparam on an own instance
module counter (input clk, output reg [W-1:0] q);
  parameter W = 4;
  initial q = 0;
  always @(posedge clk) q <= q + 1;
endmodule
module top (input clk, output [7:0] q);
  counter c (.clk(clk), .q(q));
  defparam c.W = 8;
endmodule
//// supply nets
module top (input a, output y, output z);
  supply0 gnd;
  supply1 vdd;
  assign y = a ? vdd : gnd;
  and (z, a, vdd);
endmodule
//// supply nets into cells
module inv (input a, input vcc, input gnd, output y);
  assign y = a ? gnd : vcc;
endmodule
module top (input a, output y);
  supply0 vss;
  supply1 vdd;
  inv i0 (.a(a), .vcc(vdd), .gnd(vss), .y(y));
endmodule
//// switches of an inverter
module top (input a, output y);
  supply1 vdd;
  supply0 gnd;
  pmos p1 (y, vdd, a);
  nmos n1 (y, gnd, a);
endmodule
//// combinational primitive table
primitive mux2 (y, s, a, b);
  output y;
  input s, a, b;
  table
  // s a b : y
     0 1 ? : 1;
     0 0 ? : 0;
     1 ? 1 : 1;
     1 ? 0 : 0;
     x 0 0 : 0;
     x 1 1 : 1;
  endtable
endprimitive
module top (input s, input a, input b, output y);
  mux2 u (y, s, a, b);
endmodule
//// sequential primitive table
primitive dff (q, c, d);
  output q; reg q;
  input c, d;
  initial q = 0;
  table
    (01) 0 : ? : 0;
    (01) 1 : ? : 1;
    (0?) 1 : 1 : 1;
    (?0) ? : ? : -;
     ? (??) : ? : -;
  endtable
endprimitive
module top (input clk, input d, output q);
  dff u (q, clk, d);
endmodule
//// specify block
module top (input a, input b, output y);
  and (y, a, b);
  specify
    specparam tr = 2, tf = 3;
    (a => y) = (tr, tf);
    (b => y) = 1.5;
  endspecify
endmodule
//// package in the response
package alu_pkg;
  parameter int W = 8;
  typedef enum logic [1:0] {ADD, SUB, AND, XOR} op_t;
  function automatic logic [W-1:0] negate(input logic [W-1:0] v);
    return ~v + 1;
  endfunction
endpackage
module top import alu_pkg::*; (input logic [7:0] a, input logic [7:0] b, input logic [1:0] op, output logic [7:0] y);
  always_comb
    case (op)
      ADD: y = a + b;
      SUB: y = a + negate(b);
      AND: y = a & b;
      default: y = a ^ b;
    endcase
endmodule
//// package imported in the module and by scope
package consts;
  localparam WIDTH = 4;
  localparam [3:0] MAGIC = 4'd9;
endpackage
module top (input [3:0] a, output [consts::WIDTH-1:0] y, output z);
  import consts::MAGIC;
  assign y = a ^ consts::MAGIC;
  assign z = a == MAGIC;
endmodule
//// package imported at the top of the file
package types;
  typedef struct packed { logic [3:0] hi; logic [3:0] lo; } pair_t;
endpackage
import types::*;
module top (input logic [7:0] d, output logic [7:0] y);
  pair_t p;
  assign p = d;
  assign y = {p.lo, p.hi};
endmodule
//// types and functions outside modules
typedef enum logic [1:0] {IDLE, RUN, DONE} state_t;
localparam int LIMIT = 3;
function automatic logic odd(input logic [3:0] v);
  return ^v;
endfunction
module top (input clk, input rst, input go, output logic busy, output logic p);
  state_t state;
  logic [3:0] n;
  always_ff @(posedge clk)
    if (rst) begin state <= IDLE; n <= 0; end
    else case (state)
      IDLE: if (go) begin state <= RUN; n <= 0; end
      RUN: if (n == LIMIT) state <= DONE; else n <= n + 1;
      DONE: state <= IDLE;
      default: state <= IDLE;
    endcase
  assign busy = state == RUN;
  assign p = odd(n);
endmodule
//// unique and priority
module top (input [2:0] s, input [7:0] d, output logic [7:0] y);
  always_comb begin
    y = 0;
    unique case (s)
      3'd0: y = d;
      3'd1, 3'd2: y = d << 1;
      default: y = ~d;
    endcase
    priority if (s[2]) y[7] = 1;
    else if (s[1]) y[6] = 1;
    else y[5] = 0;
  end
endmodule
//// casez priority encoder
module top (input [7:0] r, output reg [2:0] g, output reg v);
  always @* begin
    v = 1'b1;
    casez (r) // synopsys full_case parallel_case
      8'b1???????: g = 3'd7;
      8'b01??????: g = 3'd6;
      8'b001?????: g = 3'd5;
      8'b0001????: g = 3'd4;
      8'b00001???: g = 3'd3;
      8'b000001??: g = 3'd2;
      8'b0000001?: g = 3'd1;
      8'b00000001: g = 3'd0;
      default: begin g = 3'd0; v = 1'b0; end
    endcase
  end
endmodule
//// casex decoder with a task
module top (input [3:0] op, input [7:0] a, b, output reg [7:0] y, output reg c);
  task add;
    input [7:0] p, q;
    output [7:0] s;
    output carry;
    begin
      {carry, s} = p + q;
    end
  endtask
  always @(op or a or b) begin
    c = 0;
    casex (op)
      4'b00xx: add(a, b, y, c);
      4'b01x0: y = a & b;
      4'b01x1: y = a | b;
      default: y = 8'hzz;
    endcase
  end
endmodule
//// function with a loop and integer
module top (input [15:0] d, output [4:0] ones, output [3:0] log);
  function [4:0] count;
    input [15:0] v;
    integer i;
    begin
      count = 0;
      for (i = 0; i < 16; i = i + 1)
        count = count + v[i];
    end
  endfunction
  function integer clogb2;
    input integer depth;
    for (clogb2 = 0; depth > 0; clogb2 = clogb2 + 1) depth = depth >> 1;
  endfunction
  localparam N = clogb2(15);
  assign ones = count(d);
  assign log = N;
endmodule
//// recursive automatic function
module top (input [3:0] n, output [15:0] f);
  function automatic [15:0] fib(input [3:0] k);
    fib = (k < 2) ? k : fib(k - 1) + fib(k - 2);
  endfunction
  assign f = fib(n);
endmodule
//// generate for with names
module full_adder (input a, b, cin, output sum, cout);
  assign {cout, sum} = a + b + cin;
endmodule
module top #(parameter N = 8) (input [N-1:0] a, b, input cin, output [N-1:0] s, output cout);
  wire [N:0] c;
  assign c[0] = cin;
  genvar i;
  generate
    for (i = 0; i < N; i = i + 1) begin : fa
      full_adder u (.a(a[i]), .b(b[i]), .cin(c[i]), .sum(s[i]), .cout(c[i+1]));
    end
  endgenerate
  assign cout = c[N];
endmodule
//// generate if and case
module top #(parameter KIND = 1, parameter W = 4) (input [W-1:0] a, output [W-1:0] y);
  generate
    if (KIND == 0) begin : g_pass
      assign y = a;
    end else begin : g_not
      wire [W-1:0] t;
      assign t = ~a;
      assign y = g_not.t;
    end
    case (W)
      4: begin : four wire used; end
      default: begin : other wire unused; end
    endcase
  endgenerate
endmodule
//// reading across generate scopes
module top (input clk, input d, output q);
  genvar i;
  generate
    for (i = 0; i < 4; i = i + 1) begin : st
      reg r;
      if (i == 0) always @(posedge clk) r <= d;
      else always @(posedge clk) r <= st[i-1].r;
    end
  endgenerate
  assign q = st[3].r;
endmodule
//// signal of an own instance by name
module leaf (input clk, input d, output q);
  reg state;
  always @(posedge clk) state <= d;
  assign q = ~state;
endmodule
module top (input clk, input d, output q, output s);
  leaf u (.*);
  assign s = u.state;
endmodule
//// wildcard and implicit ports
module leaf (input logic a, input logic b, output logic y);
  assign y = a ^ b;
endmodule
module top (input logic a, input logic b, output logic y, output logic z);
  leaf u0 (.*);
  leaf u1 (.a, .b(y), .y(z));
endmodule
//// memory with initial contents
module top (input clk, input we, input [3:0] addr, input [7:0] din, output reg [7:0] dout);
  reg [7:0] mem [0:15];
  integer i;
  initial for (i = 0; i < 16; i = i + 1) mem[i] = i * 3;
  always @(posedge clk) begin
    if (we) mem[addr] <= din;
    dout <= mem[addr];
  end
endmodule
//// arrays of several dimensions
module top (input clk, input [1:0] i, input [1:0] j, input [3:0] d, output logic [3:0] q);
  logic [3:0] grid [4][4];
  logic [3:0][3:0] packed_grid;
  always_ff @(posedge clk) begin
    grid[i][j] <= d;
    packed_grid[i] <= grid[j][i];
  end
  assign q = packed_grid[j];
endmodule
//// structs and unions
module top (input logic [15:0] w, output logic [7:0] y, output logic [3:0] z);
  typedef struct packed {
    logic [3:0] op;
    logic [3:0] rd;
    logic [7:0] imm;
  } instr_t;
  typedef union packed { instr_t i; logic [15:0] raw; } word_t;
  word_t u;
  always_comb begin
    u.raw = w;
    y = u.i.imm;
    z = u.i.op ^ u.i.rd;
  end
endmodule
//// enum with methods of state machines
module top (input clk, input rst_n, input x, output logic z);
  typedef enum logic [2:0] {S0 = 3'b001, S1 = 3'b010, S2 = 3'b100} state_e;
  state_e cs, ns;
  always_ff @(posedge clk or negedge rst_n)
    if (!rst_n) cs <= S0;
    else cs <= ns;
  always_comb begin
    ns = cs;
    case (cs)
      S0: if (x) ns = S1; else ns = S0;
      S1: if (x) ns = S1; else ns = S2;
      S2: begin if (x) ns = S1; else ns = S0; end
      default: ns = S0;
    endcase
  end
  assign z = (cs == S2) && x;
endmodule
//// attributes everywhere
(* top = 1 *)
module top ((* mark *) input clk, (* keep = "true" *) input [1:0] s, output reg [3:0] y);
  (* ram_style = "block" *) reg [3:0] r;
  always @(posedge clk) (* parallel_case, full_case *) case (s)
    0: r <= 1;
    1: r <= 2;
    2: r <= 4;
    3: r <= 8;
  endcase
  always @(*) y = r + (* fast *) 1;
endmodule
//// one-line ports with comments and a Markdown habit
// Module: top
// Author: synthesised “quotes”, naïve café, 中文注释, ✓
module top(
    input  wire        clk,      // 时钟
    input  wire        rst_n,    /* active low — reset */
    input  wire [ 3:0] din  ,
    output reg  [ 3:0] dout
);
    always @(posedge clk or negedge rst_n) begin
        if (~rst_n)
            dout <= 4'b0;
        else
            dout <= din;
    end
endmodule
//// shift register with part selects
module top (input clk, input [7:0] d, input load, input [2:0] at, output reg [63:0] sh, output [3:0] nib, output bit_);
  always @(posedge clk)
    if (load) sh[at*8 +: 8] <= d;
    else sh <= {sh[55:0], sh[63:56]};
  assign nib = sh[at*8 + 7 -: 4];
  assign bit_ = sh[at];
endmodule
//// signed arithmetic
module top (input signed [7:0] a, b, output signed [15:0] p, output [7:0] q, output lt);
  wire signed [8:0] s = a + b;
  assign p = a * b;
  assign q = $unsigned(s >>> 1);
  assign lt = $signed(a) < $signed({1'b0, b});
endmodule
//// latch and tristate
module top (input en, input oe, input d, output y, output tri z);
  reg q;
  always @(en or d) if (en) q = d;
  assign y = q;
  assign z = oe ? q : 1'bz;
endmodule
//// wired nets
module top (input a, input b, output y, output z);
  wand w;
  wor o;
  assign w = a, w = b;
  assign o = a, o = b;
  assign y = w;
  assign z = o;
endmodule
//// named blocks, disable and while
module top (input [7:0] d, output reg [3:0] first);
  integer i;
  always @* begin : search
    first = 8;
    i = 0;
    while (i < 8) begin : body
      if (d[i]) begin
        first = i;
        disable search;
      end
      i = i + 1;
    end
  end
endmodule
//// repeat, forever with an event
module top (input clk, input [3:0] n, output reg [7:0] y);
  event tick;
  reg [7:0] t;
  always @(posedge clk) begin
    t = 1;
    repeat (n) t = t << 1;
    -> tick;
  end
  always @(tick) y = t;
endmodule
//// break, continue, foreach, do while
module top (input [7:0] d, output logic [3:0] n, output logic [7:0] r);
  always_comb begin
    n = 0;
    for (int i = 0; i < 8; i++) begin
      if (d[i]) n++;
    end
    r = '0;
    for (int i = 7; i >= 0; i--) r[7-i] = d[i];
  end
endmodule
//// return of a function, task with a side effect
module top (input clk, input [3:0] a, output logic [3:0] y, output logic [3:0] w);
  function automatic logic [3:0] gray(logic [3:0] b);
    return b ^ (b >> 1);
  endfunction
  logic [3:0] t;
  task store(input logic [3:0] v);
    t <= v;
  endtask
  always_ff @(posedge clk) begin
    store(gray(a));
    y <= gray(a);
  end
  assign w = t;
endmodule
//// clock divider
module top (input clk, input rst, output reg clk_out);
  parameter DIV = 5;
  localparam CW = $clog2(DIV);
  reg [CW-1:0] cnt;
  always @(posedge clk, posedge rst)
    if (rst) begin cnt <= 0; clk_out <= 0; end
    else if (cnt == DIV - 1) begin cnt <= 0; clk_out <= ~clk_out; end
    else cnt <= cnt + 1'b1;
endmodule
//// fifo with parameters
module top #(
  parameter DEPTH = 8,
  parameter WIDTH = 8,
  localparam AW = $clog2(DEPTH)
) (
  input                  clk, rst_n, wr, rd,
  input      [WIDTH-1:0] din,
  output reg [WIDTH-1:0] dout,
  output                 full, empty
);
  reg [WIDTH-1:0] mem [DEPTH-1:0];
  reg [AW:0] wp, rp;
  assign empty = (wp == rp);
  assign full  = (wp[AW] != rp[AW]) && (wp[AW-1:0] == rp[AW-1:0]);
  always @(posedge clk or negedge rst_n)
    if (!rst_n) {wp, rp} <= 0;
    else begin
      if (wr && !full) begin mem[wp[AW-1:0]] <= din; wp <= wp + 1; end
      if (rd && !empty) begin dout <= mem[rp[AW-1:0]]; rp <= rp + 1; end
    end
endmodule
//// instance array
module bitcell (input a, input b, output y);
  assign y = a & b;
endmodule
module top (input [3:0] a, input b, output [3:0] y);
  bitcell cell_array [3:0] (.a(a), .b(b), .y(y));
endmodule
//// gate array
module top (input [3:0] a, b, output [3:0] y, output z);
  xor g [3:0] (y, a, b);
  bufif1 t (z, a[0], b[0]);
  not (strong1, strong0) n (nz, z);
endmodule
//// positional parameters and ports
module delay_line (d, clk, q);
  parameter N = 2, W = 1;
  input [W-1:0] d;
  input clk;
  output [W-1:0] q;
  reg [W-1:0] pipe [0:N-1];
  integer i;
  always @(posedge clk) begin
    pipe[0] <= d;
    for (i = 1; i < N; i = i + 1) pipe[i] <= pipe[i-1];
  end
  assign q = pipe[N-1];
endmodule
module top (input clk, input [3:0] d, output [3:0] q);
  delay_line #(3, 4) u (d, clk, q);
endmodule
//// escaped names
module top (input \a.b , input [1:0] \sel[0] , output \y+ );
  wire \x-y ;
  assign \x-y = \a.b ^ \sel[0] [1];
  assign \y+ = \x-y ;
endmodule
//// numbers of all forms
module top (input [15:0] a, output [15:0] y, output [31:0] z, output r);
  localparam [15:0] M = 16'hDE_AD, N = 16'o17, O = 'd 12, P = 16 'b 1010_1010, Q = '1, S = -16'sd5;
  localparam real F = 1.5e1;
  localparam T = "ab";
  assign y = a ^ M ^ N ^ O ^ P ^ Q ^ S ^ T;
  assign z = $rtoi(F * 2);
  assign r = a == 16'bx ? 1'b0 : 1'b1;
endmodule
//// constant table as one vector
module top (input [1:0] i, output logic [7:0] y);
  localparam logic [31:0] ROM = {8'h3f, 8'h06, 8'h5b, 8'h4f};
  logic [7:0] t;
  always_comb begin
    t = {4{i}};
    y = ROM[8*i +: 8] ^ t;
  end
endmodule
//// initial register values and delays
`timescale 1ns/100ps
module top (input clk, output reg [1:0] ph);
  reg [3:0] lfsr = 4'b1001;
  initial ph = 2'b00;
  always @(posedge clk) begin
    lfsr <= #0.5 {lfsr[2:0], lfsr[3] ^ lfsr[2]};
    ph <= #1 lfsr[1:0];
  end
endmodule
//// celldefine and library style
`resetall
`timescale 1ns/1ps
`celldefine
module nd2 (a, b, z); input a, b; output z; nand (z, a, b); endmodule
`endcelldefine
module top (x, y, f); input x, y; output f; nd2 u1 (.a(x), .b(y), .z(f)); endmodule
//// line-continued port list with macros as values
`define S_IDLE 2'b00
`define S_A    2'b01
`define S_B    2'b10
module top (input clk, input rst, input x, output z);
  reg [1:0] st;
  always @(posedge clk)
    if (rst) st <= `S_IDLE;
    else case (st)
      `S_IDLE : st <= x ? `S_A : `S_IDLE;
      `S_A    : st <= x ? `S_A : `S_B;
      `S_B    : st <= x ? `S_A : `S_IDLE;
      default : st <= `S_IDLE;
    endcase
  assign z = (st == `S_B);
endmodule
`undef S_IDLE
//// endmodule label, begin end labels
module top (input clk, input d, output logic q);
  always_ff @(posedge clk) begin : reg_proc
    if (d) begin : set
      q <= 1;
    end : set
    else q <= 0;
  end : reg_proc
endmodule : top
//// elaboration checks
module top #(parameter W = 4) (input [W-1:0] a, output y);
  generate
    if (W < 2) begin
      initial $display("W is too small");
    end
  endgenerate
  assign y = ^a;
endmodule
//// parameter checks that end the simulation
module top #(parameter W = 4) (input [W-1:0] a, output y);
  initial begin
    if (W > 64) begin
      $display("W too large");
    end
  end
  assign y = |a;
endmodule
//// procedural continuous assignment of a reset
module top (input clk, input clr, input d, output reg q);
  always @(clr)
    if (clr) assign q = 0;
    else deassign q;
  always @(posedge clk) q <= d;
endmodule
//// strings as states for the reader
module top (input [1:0] s, output reg [7:0] code);
  reg [8*5-1:0] name;
  always @(*) begin
    case (s)
      0: name = "IDLE";
      1: name = "RUN";
      default: name = "?";
    endcase
    code = name[7:0];
  end
endmodule
//// time of the print
module top (input clk, input a, output reg y);
  time t;
  always @(posedge clk) begin
    y <= a;
    $display("%0t: %m y=%b", $time, y);
  end
endmodule
//// testbench beside the answer
module top (input a, input b, output y);
  assign y = a & b;
endmodule
module top_tb;
  reg a, b;
  wire y;
  top dut (.a(a), .b(b), .y(y));
  initial begin
    a = 0; b = 0; #10;
    a = 1; #10 b = 1; #10;
    $display("y=%b", y);
    $finish;
  end
endmodule
