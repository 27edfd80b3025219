# ruff: noqa: E501, SIM905 - vocabularies are lists of words
"""Verilog that nobody would write: random designs, mutated tokens, splices of attacks and honest solutions, garbage.

    VerilogFuzz(random) --> case() --> FuzzCase(request, wrong, mates)

`wrong` is True where the response is known to be wrong, since it grew out of an attack alone. `mates` are honest
responses to the same problem that must be right beside it.
"""

import random
import re
from dataclasses import dataclass

from reward.messages import VerifyRequest
from tests.reward.attacks.verilog_attacks import Attack
from tests.reward.attacks.verilog_disguise import DISGUISED
from tests.reward.attacks.verilog_exhaust import EXHAUSTING
from tests.reward.attacks.verilog_problems import PROBLEMS, Problem, fenced
from tests.reward.attacks.verilog_reach import REACHING

TOKEN = re.compile(r"\s+|\\\S+|`\w*|\$\w+|\w+|\"[^\"\n]*\"|<=|>=|==|&&|\|\||.", re.DOTALL)
WORDS = (
    "module endmodule input output inout reg wire logic integer real time event genvar parameter localparam assign always"
    " always_comb always_ff always_latch initial final begin end if else case casex casez endcase default for while repeat"
    " forever fork join join_any join_none disable wait posedge negedge or and nand nor xor buf not tran pullup supply0"
    " tri1 function endfunction task endtask automatic generate endgenerate force release deassign defparam specify"
    " endspecify primitive endprimitive table endtable typedef enum struct packed union string return break continue do"
    " foreach unique priority inside signed unsigned void const static interface endinterface package endpackage import"
    " export class endclass program endprogram bind assert assume cover property sequence clocking let alias virtual"
    " TopModule RefModule tb testbench tb_loop good1 q_ref top_module1 clk reset d q a b y sel in out x 0 1 2 -1 4'b10x1"
    " 8'hff 1'bx 1'bz 'x 'z '0 '1 32'd4294967295 64'hffffffffffffffff 1e9 0.1 1ns 3.7 99999999999"
).split()
MARKS = list("()[]{};:,.?#@=+-*/%<>!&|^~'\"`\\$ \n\t") + ["<=", ">=", "==", "===", "!==", "&&", "||", "<<", ">>>", "**"]
MARKS += ["->", "+:", "-:", "::", "(*", "*)", "//", "/*", "*/", "@*", "@(*)", "##", ".*", "'{", "++", "+="]
TASKS = (
    "$display $write $monitor $strobe $finish $stop $fatal $fopen $fclose $fdisplay $fwrite $readmemh $readmemb $dumpfile"
    " $dumpvars $random $urandom $time $realtime $system $value$plusargs $test$plusargs $signed $unsigned $clog2 $bits"
    " $sformat $root $unit $size $countones $isunknown $pow $ln $error $info $exit \\$finish \\$display \\tb.q_ref"
).split()
DIRECTIVES = (
    "`define `undef `include `ifdef `ifndef `else `elsif `endif `timescale `default_nettype `resetall `line `pragma `celldefine"
    " `begin_keywords `undefineall `X `__FILE__ \\x`define \\x`ifdef \\y`endif"
).split()
STRANGE = [
    "\0",
    "\ufeff",
    "\u202e",
    "\u2028",
    "\x85",
    "\ud800",
    "＄",
    "🐍",
    "é",
    "\r",
    "\x0b",
    "\x0c",
    "\x1b[2J",
    "\x7f",
]
OWN = ("r0", "r1", "r2", "m0[1]", "m0[r0]")
OWN_DECLARATIONS = (
    "reg [7:0] r0 = 0; reg r1 = 1; reg signed [33:0] r2; reg [7:0] m0 [0:15]; wire [7:0] w0 = r0 + 1; localparam P0 = 5;"
    " function [7:0] f(input [7:0] i); f = i ^ 3; endfunction task t; r1 = ~r1; endtask"
)
OPERATORS = ["+", "-", "*", "/", "%", "&", "|", "^", "<<", ">>", ">>>", "==", "===", "<", "&&", "||", "**", "~^"]


@dataclass(frozen=True, kw_only=True)
class FuzzCase:
    request: VerifyRequest
    wrong: bool
    mates: tuple[VerifyRequest, ...] = ()
    sound: bool = True  # all references are


class VerilogFuzz:
    """Cases without end, drawn from one source of chance."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._problems = list(PROBLEMS.values())
        self._attacks: list[Attack] = [one for one in (*REACHING, *DISGUISED, *EXHAUSTING) if len(one.response) < 5_000]

    def case(self) -> FuzzCase:
        problem = self._chance.choice(self._problems)
        kind = self._chance.choice(
            (self._grown, self._mutant, self._mutated_attack, self._mutated_attack, self._splice, self._garbage)
        )
        response, wrong = kind(problem)
        request = VerifyRequest(id=kind.__name__, verifier="verilog", response=response, reference=problem.reference)
        return FuzzCase(request=request, wrong=wrong, mates=self._mates(problem))

    def _mates(self, problem: Problem) -> tuple[VerifyRequest, ...]:
        """Mostly none. Their names are drawn, so that no earlier simulation answers for them."""
        count = self._chance.choice((0, 0, 0, 0, 0, 0, 0, 0, 0, 5))
        names = [f"mine_{self._chance.getrandbits(64)}" for _ in range(count)]
        return tuple(
            VerifyRequest(
                id=name,
                verifier="verilog",
                response=fenced(problem.module(f"wire {name}; {problem.honest}")),
                reference=problem.reference,
            )
            for name in names
        )

    def _grown(self, problem: Problem) -> tuple[str, bool]:
        """A design whose names are declared, so that many of them compile, and read back what they write."""
        names = [*re.findall(r"(\w+)(?=,|$)", problem.ports), *OWN]
        written = [*re.findall(r"output reg (?:\[\d+:0\] )?(\w+)", problem.ports), *OWN]
        items = " ".join(self._item(names, written) for _ in range(self._chance.randint(1, 6)))
        return fenced(problem.module(f"{OWN_DECLARATIONS} {items}")), False

    def _mutant(self, problem: Problem) -> tuple[str, bool]:
        return fenced(self._mutated(problem.module(problem.honest))), False

    def _mutated_attack(self, problem: Problem) -> tuple[str, bool]:
        attack = self._chance.choice([one for one in self._attacks if one.problem is problem])
        return self._mutated(attack.response), "endmodule" in attack.response and problem.honest not in attack.response

    def _splice(self, problem: Problem) -> tuple[str, bool]:
        pieces = [problem.solution, *(one.response for one in self._chance.sample(self._attacks, 2))]
        self._chance.shuffle(pieces)
        cut = [TOKEN.findall(piece) for piece in pieces]
        parts = []
        for tokens in cut:
            start, end = sorted(self._chance.randrange(len(tokens) + 1) for _ in range(2))
            parts += tokens[start:end]
        return fenced(problem.module("".join(parts))) if self._chance.random() < 0.5 else "".join(parts), False

    def _garbage(self, problem: Problem) -> tuple[str, bool]:
        size = self._chance.choice((5, 50, 500, 5_000))
        tokens = [self._token() for _ in range(size)]
        text = self._chance.choice((" ", "", "\n")).join(tokens)
        return (fenced(problem.module(text)) if self._chance.random() < 0.6 else text), False

    def _mutated(self, text: str) -> str:
        tokens = TOKEN.findall(text)
        for _ in range(self._chance.choice((1, 1, 2, 3, 8, 30))):
            if not tokens:
                break
            at = self._chance.randrange(len(tokens))
            what = self._chance.randrange(7)
            if what == 0:
                del tokens[at]
            elif what == 1:
                tokens.insert(at, self._chance.choice((self._token(), *self._chance.sample(tokens, 1))))
            elif what == 2:
                tokens[at] = self._chance.choice((self._token(), *self._chance.sample(tokens, 1)))
            elif what == 3:
                other = self._chance.randrange(len(tokens))
                tokens[at], tokens[other] = tokens[other], tokens[at]
            elif what == 4:
                tokens[at:at] = tokens[at : at + self._chance.randint(1, 20)] * self._chance.choice((1, 2, 20))
            elif what == 5:
                del tokens[at : at + self._chance.randint(1, 20)]
            else:
                tokens.insert(at, self._statement(["clk", "d", "q", "a", "in"], ["q", "out", "y", "rd", "s"], 2))
        return "".join(tokens)

    def _token(self) -> str:
        return self._chance.choice(self._chance.choice((WORDS, WORDS, MARKS, MARKS, TASKS, DIRECTIVES, STRANGE)))

    def _item(self, names: list[str], written: list[str]) -> str:
        chance, number = self._chance, self._chance.randrange(10**6)
        statement = lambda depth: self._statement(names, written, depth)  # noqa: E731 - a short name keeps it readable
        return chance.choice(
            (
                lambda: f"wire [7:0] a{number}; assign a{number} = {self._expression(names, 3)};",
                lambda: f"always @* {statement(3)}",
                lambda: f"always @* {chance.choice(written)} = {self._expression(names, 3)};",
                lambda: f"always @({chance.choice(('posedge ', 'negedge ', ''))}{chance.choice(names)}) {statement(3)}",
                lambda: f"initial {statement(3)}",
                lambda: f"reg [{chance.randint(0, 70)}:0] b{number} = {self._expression(names, 1)};",
                lambda: f"wire [{chance.randint(0, 9)}:0] c{number} = {self._expression(names, 2)};",
                lambda: f"localparam P{number} = {self._expression(['1', '2'], 2)};",
                lambda: (
                    f"genvar g{number}; generate for (g{number} = 0; g{number} < {chance.choice((2, 8, 300))};"
                    f" g{number} = g{number} + 1) begin : h{number} {self._item(names, written)} end endgenerate"
                ),
                lambda: (
                    f"function [7:0] f{number}(input [7:0] i); f{number} = {self._expression([*names, 'i'], 2)};"
                    " endfunction"
                ),
                lambda: f"{chance.choice(('and', 'nor', 'buf'))} (d{number}, w0[1], r1);",
            )
        )()

    def _statement(self, names: list[str], written: list[str], depth: int) -> str:
        chance, name = self._chance, self._chance.choice(written)
        if depth == 0:
            return f"{name} {chance.choice(('=', '<='))} {self._expression(names, 1)};"
        inner = lambda: self._statement(names, written, depth - 1)  # noqa: E731 - one short name keeps the grammar readable
        return chance.choice(
            (
                lambda: f"{name} {chance.choice(('=', '<=', '<= #1', '+='))} {self._expression(names, depth)};",
                lambda: f"begin {inner()} {inner()} end",
                lambda: f"if ({self._expression(names, depth)}) {inner()} else {inner()}",
                lambda: f"case ({self._expression(names, 1)}) 0: {inner()} 1, 2: {inner()} default: {inner()} endcase",
                lambda: f"for (r0 = 0; r0 < {chance.choice((3, 100, 100000))}; r0 = r0 + 1) {inner()}",
                lambda: f"repeat ({chance.choice((2, 1000))}) {inner()}",
                lambda: f"fork {inner()} {inner()} join",
                lambda: f"#{chance.choice((0, 1, 1000))} {inner()}",
                lambda: f"@({chance.choice(('posedge ', ''))}{chance.choice(names)}) {inner()}",
                lambda: f"while ({self._expression(names, 1)}) {inner()}",
                lambda: f"$display({self._expression(names, 1)});",
                lambda: "t;",
            )
        )()

    def _expression(self, names: list[str], depth: int) -> str:
        chance = self._chance
        if depth == 0:
            return chance.choice([*names, "1", "0", "8'hff", "4'bx", "'z", "r0", "w0", "P0", "m0[2]"])
        part = lambda: self._expression(names, depth - 1)  # noqa: E731 - one short name keeps the grammar readable
        return chance.choice(
            (
                lambda: f"({part()} {chance.choice(OPERATORS)} {part()})",
                lambda: f"{chance.choice('~!-&|^')}({part()})",
                lambda: f"({part()} ? {part()} : {part()})",
                lambda: f"{{{part()}, {part()}}}",
                lambda: f"{{{chance.choice((1, 3, 99))}{{{part()}}}}}",
                lambda: f"{chance.choice(names)}[{part()}]",
                lambda: f"f({part()})",
                lambda: f"$signed({part()})",
            )
        )()
