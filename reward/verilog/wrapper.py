"""What stands between a testbench and a design in one simulation: a module with the outside of the reference.

    testbench <--> wrapper(inputs, parameters --> design, --> outputs)

Reference and response get the same wrapper, so a race between clock and data in a testbench ends alike for both. Each
form is a text of several lines whose last one is the design.
"""

import secrets
from dataclasses import dataclass

from reward.verilog.design import Design
from reward.verilog.shell import Shell


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrapper:
    """`one_way`: inputs pass an operator, behind which nothing inside can pull at them.

    It takes no time, but may decide a race of a testbench otherwise.
    """

    shell: Shell
    one_way: bool

    def around(self, design: Design, name: str, *, timescale: str = "", watch: str = "") -> str:
        """The design as a module called `name`; `timescale` is a directive for it, or nothing.

        With `watch` it prints, after `<watch>+`, which output bits have been 0 or 1, whenever these become more, and
        its own path.
        """
        nonce = fresh()
        lines = [self.shell.header(name), self._instance(design, nonce)]
        if watch:
            lines.append(watcher(self.shell, watch))
        return "\n".join([*lines, "endmodule", f"{timescale}{design.render(nonce)}\n"])

    def knowing(self, design: Design, name: str, reference: Design, bit: str, *, timescale: str = "") -> str:
        """The same, but an output bit that is unknown where the reference, under the same inputs, knows it is `bit`."""
        ours, theirs = fresh(), fresh()  # before the names of the outputs of each
        got, wanted, known, index = fresh(), fresh(), fresh(), fresh()
        bits = self.shell.output_bits
        lines = [self.shell.header(name)]
        for nonce, inside, row in ((ours, design, got), (theirs, reference, wanted)):
            lines += [f"wire [{port.width} - 1:0] {nonce}{port.name};" for port in self.shell.outputs]
            lines.append(self._instance(inside, nonce, outputs=nonce))
            names = ", ".join(f"{nonce}{port.name}" for port in self.shell.outputs)
            lines.append(f"wire [{bits} - 1:0] {row} = {{{names}}};")
        # x ^ x is x, and 0 ^ 0 and 1 ^ 1 are 0
        lines += [
            f"wire [{bits} - 1:0] {known}; assign {{{self.shell.output_names}}} = {known}; genvar {index};",
            f"generate for ({index} = 0; {index} < {bits}; {index} = {index} + 1) assign {known}[{index}] =",
            f"({wanted}[{index}] ^ {wanted}[{index}]) === 1'b0 && ({got}[{index}] ^ {got}[{index}]) !== 1'b0",
            f"? 1'b{bit} : {got}[{index}]; endgenerate endmodule",
            reference.render(theirs),
            f"{timescale}{design.render(ours)}\n",
        ]
        return "\n".join(lines)

    def _instance(self, design: Design, nonce: str, *, outputs: str = "") -> str:
        """`outputs` stands before the names of the nets that take the outputs."""
        behind = " & {{{}{{1'b1}}}}" if self.one_way else ""
        connections = [f".{port.name} ({port.name}{behind.format(port.width)})" for port in self.shell.inputs]
        connections += [f".{port.name} ({outputs}{port.name})" for port in self.shell.outputs]
        return f"{design.top_name(nonce)} {self.shell.passed_on}{nonce}u ({', '.join(connections)});"


def fresh() -> str:
    return "t" + secrets.token_hex(8)


def watcher(shell: Shell, mark: str) -> str:
    outputs, seen, before, index, bits = (mark + end for end in "oskin")
    return f"""localparam {bits} = {shell.output_bits};
wire [{bits} - 1:0] {outputs} = {{{shell.output_names}}};
reg [{bits} - 1:0] {seen} = 0, {before} = 0;
integer {index};
always begin
  if (!(&{seen})) begin
    for ({index} = 0; {index} < {bits}; {index} = {index} + 1)
      if (({outputs}[{index}] ^ {outputs}[{index}]) === 1'b0) {seen}[{index}] = 1;
    if ({seen} != {before}) begin {before} = {seen}; $display("\\n{mark}+%b %m", {seen}); end
  end
  @({outputs});
end"""
