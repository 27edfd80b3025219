"""The outside of a reference: ports as wide as parameters make them, and which parameters a testbench gives.

A module with this outside may stand wherever a testbench puts the design.
"""

import re
from dataclasses import dataclass

from pyslang import SourceManager
from pyslang.ast import ArgumentDirection, Compilation, ParameterSymbol, Symbol, SymbolKind
from pyslang.syntax import SyntaxKind, SyntaxNode, SyntaxTree

from reward.errors import UnusableReference
from reward.verilog.design import Design
from reward.verilog.syntax import deep

WORD = re.compile(r"[A-Za-z_]\w*")
VECTOR = re.compile(r"\s*\[([^][:]+):([^][:]+)\]\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """The parameters that a testbench gives some instance: by name, and so many by position."""

    names: frozenset[str] = frozenset()
    positions: int = 0

    def __bool__(self) -> bool:
        return bool(self.names or self.positions)

    def __or__(self, other: "Given") -> "Given":
        return Given(names=self.names | other.names, positions=max(self.positions, other.positions))


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A port; `width`: its bits, as Verilog."""

    name: str
    width: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell:
    """Ports in the order of the module, and its parameters.

    parameters  their declarations, as Verilog, where a testbench gives some
    passed_on   what stands before the name of an instance inside that gets the same ones
    """

    inputs: tuple[Side, ...]
    outputs: tuple[Side, ...]
    order: tuple[str, ...]
    parameters: str = ""
    passed_on: str = ""

    @property
    def output_names(self) -> str:
        return ", ".join(port.name for port in self.outputs)

    @property
    def output_bits(self) -> str:
        return " + ".join(port.width for port in self.outputs)

    def header(self, name: str) -> str:
        """The head of a module with this outside, on one line."""
        ports = [f"input wire [{port.width} - 1:0] {port.name};" for port in self.inputs]
        ports += [f"output wire [{port.width} - 1:0] {port.name};" for port in self.outputs]
        return f"module {name} ({', '.join(self.order)}); {self.parameters} {' '.join(ports)}"


def given_in(instance: SyntaxNode) -> Given:
    """The parameters that an instantiation or a defparam gives."""
    names, positions = set(), 0
    for node in deep(instance):
        if node.kind == SyntaxKind.NamedParamAssignment:
            names.add(node.name.valueText)
        elif node.kind == SyntaxKind.DefParamAssignment:
            names.add(node.name.getLastToken().valueText)
        elif node.kind == SyntaxKind.OrderedParamAssignment:
            positions += 1
    return Given(names=frozenset(names), positions=positions)


def read_shell(reference: Design, given: Given) -> Shell:
    """The outside of a reference. Raises UnusableReference where nothing can stand around the design."""
    sources = SourceManager()
    compilation = Compilation()
    compilation.addSyntaxTree(SyntaxTree.fromText(reference.text, sources))
    name = reference.modules[reference.top]
    body = next(top.body for top in compilation.getRoot().topInstances if top.name == name)
    parameters = list(body.parameters) if given else []
    for parameter in parameters:
        if parameter.kind != SymbolKind.Parameter:
            raise UnusableReference(
                f"parameter {parameter.name} of the reference is a type, so nothing can stand around it"
            )
    free = [parameter.name for parameter in parameters if not parameter.isLocalParam]
    widths = {port.name: width(port, {parameter.name for parameter in parameters}) for port in body.portList}
    passed = [parameter for parameter in free if parameter in given.names or parameter in free[: given.positions]]
    passed_on = ", ".join(f".{parameter} ({parameter})" if given.names else parameter for parameter in passed)
    sides: dict[ArgumentDirection, list[Side]] = {ArgumentDirection.In: [], ArgumentDirection.Out: []}
    for port in body.portList:
        sides[port.direction].append(Side(name=port.name, width=widths[port.name]))
    return Shell(
        inputs=tuple(sides[ArgumentDirection.In]),
        outputs=tuple(sides[ArgumentDirection.Out]),
        order=tuple(port.name for port in body.portList),
        parameters=" ".join(declarations(parameters, free, " ".join(widths.values()))),
        passed_on=f"#({passed_on}) " if passed else "",
    )


def width(port: Symbol, parameters: set[str]) -> str:
    """The bits of a port: a number, or an expression where a parameter decides."""
    written = port.internalSymbol.declaredType.typeSyntax
    dimensions = [str(node) for node in deep(written) if node.kind == SyntaxKind.VariableDimension]
    if not parameters.intersection(WORD.findall(" ".join(dimensions))):
        return str(port.type.bitWidth)
    vector = VECTOR.fullmatch(" ".join(dimensions))
    if vector is None:
        raise UnusableReference(
            f"port {port.name} of the reference is no plain vector and has the width of a parameter"
        )
    high, low = (f"({end.strip()})" for end in vector.groups())
    return f"(({high} > {low} ? {high} - {low} : {low} - {high}) + 1)"


def declarations(parameters: list[ParameterSymbol], free: list[str], wanted: str) -> list[str]:
    """The free parameters, and of the others those that the text `wanted` is made of, in order."""
    needed = set(WORD.findall(wanted))
    found = []
    for parameter in reversed(parameters):
        if parameter.name not in needed and parameter.name not in free:
            continue
        needed |= set(WORD.findall(str(parameter.syntax)))
        keyword = "parameter" if parameter.name in free else "localparam"
        found.append(f"{keyword} {parameter.syntax.parent.type} {parameter.syntax};")
    return found[::-1]
