"""Questions about a syntax tree that need no state: names, ports, what a statement does."""

from collections.abc import Iterator

from pyslang.parsing import Token, TokenKind
from pyslang.syntax import SyntaxKind, SyntaxNode

from reward.verilog import policy

NAME = TokenKind.Identifier
CALLEES = policy.kinds("IdentifierName")
DECLARES = policy.kinds("Declarator InstanceName NamedBlockClause NamedLabel FunctionPrototype")
PORT_LISTS = policy.kinds("AnsiPortList NonAnsiPortList PortDeclaration")
REFERS_TO_NET = policy.kinds("ImplicitNonAnsiPort ExplicitNonAnsiPort ExplicitAnsiPort")
REFERENCES = policy.kinds("PortReference IdentifierName IdentifierSelectName")
MENTIONS = policy.kinds(
    "ModuleHeader PackageHeader UdpDeclaration HierarchyInstantiation PrimitiveInstantiation PackageImportItem"
    " IdentifierName"
)
ACTIONS = policy.kinds("EmptyStatement ExpressionStatement SequentialBlockStatement ConditionalStatement")


def deep(node: SyntaxNode) -> Iterator[SyntaxNode]:
    """The node and every node below it, without recursion: a tree can be as deep as its text is long."""
    stack = [node]
    while stack:
        here = stack.pop()
        yield here
        stack += [child for child in here if not isinstance(child, Token)]


def plain(name: str) -> str:
    """A name as its meaning: `\\tb ` is `tb`."""
    return name.removeprefix("\\").rstrip()


def declared_in(node: SyntaxNode) -> set[str]:
    """Names of variables, instances, blocks and subroutines declared anywhere below."""
    names: set[str] = set()
    for below in deep(node):
        if below.kind in DECLARES:
            for child in below:
                if not isinstance(child, Token) and child.kind in CALLEES:
                    child = child.getFirstToken()
                if isinstance(child, Token) and child.kind == NAME:
                    names.add(plain(child.rawText))
                    break
    return names


def global_name(node: SyntaxNode) -> Token | None:
    """The token of the module, primitive or package that a node declares or mentions, if it does."""
    kind, token = node.kind, None
    if kind not in MENTIONS:
        return None
    if kind in (SyntaxKind.ModuleHeader, SyntaxKind.PackageHeader, SyntaxKind.UdpDeclaration):
        token = node.name
    elif kind in (SyntaxKind.HierarchyInstantiation, SyntaxKind.PrimitiveInstantiation):
        token = node.type
    elif kind == SyntaxKind.PackageImportItem:
        token = node.package
    elif kind == SyntaxKind.IdentifierName and node.parent is not None and node.parent.kind == SyntaxKind.ScopedName:
        scope = node.parent
        if scope.separator.kind == TokenKind.DoubleColon and scope.left.kind == kind:
            token = scope.left.identifier if scope.left.identifier == node.identifier else None
    return token if token is not None and token.kind == NAME else None


def begins_with_package(scoped: SyntaxNode) -> bool:
    """Whether the first step of `a::b.c` leads into a package."""
    while scoped.left.kind == SyntaxKind.ScopedName:
        scoped = scoped.left
    return scoped.separator.kind == TokenKind.DoubleColon


def identifiers(node: SyntaxNode) -> list[str]:
    tokens = (child for below in deep(node) for child in below if isinstance(child, Token))
    return [plain(token.rawText) for token in tokens if token.kind == NAME]


def ports_of(module: SyntaxNode) -> set[str]:
    """Every name in the port lists and port declarations of a module."""
    return {name for node in deep(module) if node.kind in PORT_LISTS for name in identifiers(node)}


def shared_port_net(header: SyntaxNode) -> str | None:
    """A net that two ports of a module give access to, or two bits of one, so that they join what is outside."""
    seen: set[str] = set()
    for port in deep(header):
        if port.kind not in REFERS_TO_NET:
            continue
        for node in deep(port):
            if node.kind not in REFERENCES:
                continue
            name = plain(node.getFirstToken().rawText)
            if name in seen:
                return name
            seen.add(name)
    return None


def called_task(statement: SyntaxNode) -> str | None:
    """The system task that a statement calls, if it is such a call."""
    for child in statement:
        if isinstance(child, Token):
            continue
        if child.kind == SyntaxKind.InvocationExpression or child.kind == SyntaxKind.SystemName:
            name = child.getFirstToken().rawText
            return name if name.startswith("$") else None
    return None


def changes_something(assertion: SyntaxNode) -> bool:
    """Whether what an assertion does on success or failure is more than calling system tasks."""
    for action in deep(assertion):
        if action.kind != SyntaxKind.ActionBlock:
            continue
        for node in deep(action):
            if node.kind == SyntaxKind.ExpressionStatement and called_task(node) is None:
                return True
            if str(node.kind).endswith("Statement") and node.kind not in ACTIONS:
                return True
    return False


def readable(kind: SyntaxKind) -> str:
    return words(str(kind).rpartition(".")[2])


def words(camel: str) -> str:
    """`ProceduralForceStatement` -> `procedural force statement`."""
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in camel).strip()
