"""The ports of a reference design, and which of its inputs are clocks and resets."""

import re
from dataclasses import dataclass

from pyslang import SourceManager
from pyslang.ast import ArgumentDirection, Compilation, SymbolKind
from pyslang.parsing import Token, TokenKind
from pyslang.syntax import SyntaxKind, SyntaxTree

from reward.errors import UnusableReference
from reward.verilog.design import deep
from reward.verilog.directives import checked_source

CLOCK_NAME = re.compile(r"(?i)^(i_)?(\w*_)?(clk|clock)(_\w*)?$|^\w{0,3}clk\w{0,2}$")
RESET_NAME = re.compile(r"(?i)rst|reset|clear|clr")
ACTIVE_LOW_NAME = re.compile(r"(?i)(_n|_ni|_b|rstn|resetn|clrn|clearn)$|^n_?(rst|reset|clr|clear)")
PLAIN_NAME = re.compile(r"[A-Za-z_]\w*")
EDGES = (TokenKind.PosEdgeKeyword, TokenKind.NegEdgeKeyword)


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    name: str
    width: int  # bits


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """What a design must offer, and how its inputs are driven.

    clocks       names of inputs that are clocks; the first one ticks regularly
    resets       name of an input -> its active level, 0 or 1
    sequential   the design has state, so the order of stimuli matters
    order        names of all ports as the module lists them, for a testbench that connects them by position; nothing
                 stands for inputs, then outputs
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    clocks: tuple[str, ...]
    resets: tuple[tuple[str, int], ...]
    sequential: bool
    order: tuple[str, ...] = ()

    @property
    def input_bits(self) -> int:
        return sum(port.width for port in self.inputs)

    @property
    def output_bits(self) -> int:
        return sum(port.width for port in self.outputs)

    @property
    def input_names(self) -> str:
        return ", ".join(port.name for port in self.inputs)

    @property
    def output_names(self) -> str:
        return ", ".join(port.name for port in self.outputs)

    def header(self, name: str, output: str) -> str:
        """The head of a module with these ports; `output` is the kind of its outputs, `wire` or `reg`."""
        ports = {port.name: f"input wire [{port.width - 1}:0] {port.name}" for port in self.inputs}
        ports |= {port.name: f"output {output} [{port.width - 1}:0] {port.name}" for port in self.outputs}
        return f"module {name} ({', '.join(ports[name] for name in self.order or ports)});"


def read_interface(source: str, module: str) -> Interface:
    """The interface of `module`. Raises UnusableReference where we cannot drive it or see what it does."""
    sources = SourceManager()
    tree = SyntaxTree.fromText(checked_source(source), sources)
    compilation = Compilation()
    compilation.addSyntaxTree(tree)
    instance = next((top for top in compilation.getRoot().topInstances if top.name == module), None)
    if instance is None:
        raise UnusableReference(f"the reference's module {module} is not a top module or does not elaborate")
    inputs, outputs = [], []
    for port in instance.body.portList:
        if port.kind != SymbolKind.Port or not port.type.isIntegral or not PLAIN_NAME.fullmatch(port.name):
            raise UnusableReference(
                f"port {port.name or '(unnamed)'} of the reference is no plain vector, and only those can be judged"
            )
        if port.direction == ArgumentDirection.In:
            inputs.append(Port(name=port.name, width=port.type.bitWidth))
        elif port.direction == ArgumentDirection.Out:
            outputs.append(Port(name=port.name, width=port.type.bitWidth))
        else:
            raise UnusableReference(
                f"port {port.name} of the reference is neither input nor output, and only those can be judged"
            )
    if not outputs:
        raise UnusableReference(f"module {module} of the reference has no output to compare")
    edges, has_latch = edges_in(tree)
    single = [port.name for port in inputs if port.width == 1]
    clocks = [name for name in single if CLOCK_NAME.search(name)]
    clocks += [name for name in single if name in edges and name not in clocks and not RESET_NAME.search(name)]
    resets = tuple(
        (name, int(not (edges.get(name) == TokenKind.NegEdgeKeyword or ACTIVE_LOW_NAME.search(name))))
        for name in single
        if RESET_NAME.search(name) and name not in clocks
    )
    sequential = bool(edges) or has_latch
    return Interface(
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        clocks=tuple(clocks) if sequential else (),
        resets=resets if sequential else (),
        sequential=sequential,
        order=tuple(port.name for port in instance.body.portList),
    )


def edges_in(tree: SyntaxTree) -> tuple[dict[str, TokenKind], bool]:
    """(signal -> edge it is waited for, whether there is an always_latch or an edge at all)."""
    edges: dict[str, TokenKind] = {}
    has_latch = False
    for node in deep(tree.root):
        if node.kind == SyntaxKind.AlwaysLatchBlock:
            has_latch = True
        elif node.kind == SyntaxKind.SignalEventExpression:
            children = list(node)
            first = children[0]
            if isinstance(first, Token) and first.kind in EDGES:
                edges[children[1].getFirstToken().rawText] = first.kind
    return edges, has_latch
