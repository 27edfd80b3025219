"""One walk over the syntax tree of a response: tokens out, policy checked on the way."""

from collections.abc import Iterator
from dataclasses import dataclass

from pyslang import Diagnostic, SourceManager
from pyslang.parsing import Token, TokenKind
from pyslang.syntax import SyntaxKind, SyntaxNode, SyntaxTree

from reward.verilog import policy
from reward.verilog.directives import checked_source
from reward.verilog.errors import Rejected
from reward.verilog.syntax import (
    CALLEES,
    NAME,
    begins_with_package,
    called_task,
    changes_something,
    declared_in,
    deep,
    global_name,
    plain,
    ports_of,
    readable,
    shared_port_net,
    words,
)

MODULE = SyntaxKind.ModuleDeclaration
GLOBAL = policy.kinds("ModuleDeclaration UdpDeclaration PackageDeclaration")
QUIET = GLOBAL | policy.kinds("EmptyMember")  # leave no names to others, once renamed
HEADS = policy.kinds("ModuleHeader UdpDeclaration PackageHeader")
INSTANTIATES = policy.kinds("HierarchyInstantiation PrimitiveInstantiation")
CALLS = policy.kinds("InvocationExpression")
SCOPED = policy.kinds("ScopedName")
STATEMENT = policy.kinds("ExpressionStatement")
# Written without spaces: the simulator reads them as one word each.
ONE_WORD = policy.kinds("WildcardPortConnection UdpEdgeField")
# The nodes that are not just checked for being allowed; most are.
TREATED = (
    policy.DROPPED
    | policy.DROPPED_MEMBERS
    | policy.DROPPED_STATEMENTS
    | STATEMENT
    | ONE_WORD
    | policy.kinds("NamedBlockClause")
)
NOTED = SCOPED | CALLS | STATEMENT | policy.kinds("PackageImportItem DisableStatement")
BODIES = policy.kinds("CompilationUnit ModuleDeclaration PackageDeclaration GenerateRegion GenerateBlock")


@dataclass(frozen=True, slots=True)
class Mention:
    """A name that the simulator would look up outside the module if it is not declared inside."""

    name: str
    module: SyntaxNode | None
    what: str  # "hierarchical reference" or "call"


class TreeReader:
    """`top`, then `read`; after that the attributes say what was read.

    tokens, token_kinds   the text, less what is dropped
    mentions              positions in tokens of names of modules, primitives, packages
    declared              those names, in order
    kinds                 of all nodes
    """

    def __init__(self, source: str, *, trusted: bool) -> None:
        self._trusted = trusted
        self.tokens: list[str] = []
        self.token_kinds: list[TokenKind] = []
        self.mentions: list[int] = []
        self.declared: list[str] = []
        self.kinds: set[SyntaxKind] = set()
        self.sociable = True
        self.assigns_nets = False
        self._lookups: list[Mention] = []
        self._packages: list[str] = []
        self._module: SyntaxNode | None = None
        self._ports: set[str] | None = None  # of the module, where somebody asked
        # the tree keeps pointers into the manager's buffers
        self._sources = SourceManager()
        text = checked_source(source)
        try:
            self._tree = SyntaxTree.fromText(text, self._sources)
        except RuntimeError as error:  # the parser's own bound on nesting
            raise Rejected("does not parse: nested too deeply") from error
        faults = [diagnostic for diagnostic in self._tree.diagnostics if diagnostic.isError()]
        if faults:
            raise Rejected(self._fault(faults[0]))
        root = self._tree.root
        # the parser hands over a lone member as the root
        self._members = [child for child in root if not isinstance(child, Token)]
        if root.kind != SyntaxKind.CompilationUnit:
            self._members = [root]

    def top(self, wanted: str | None) -> str:
        """The name of the top module. Raises Rejected where there is none of that name, or of None not just one."""
        modules = [name_of(member) for member in self._members if member.kind == MODULE]
        if wanted is None:
            used = {name for member in self._members for name in instantiated(member)}
            tops = [name for name in modules if name not in used]
            if len(tops) != 1:
                raise Rejected(f"expected one module that nobody instantiates, found {len(tops)}")
            return tops[0]
        if wanted not in modules:
            raise Rejected(f"no module {wanted}, only {', '.join(modules) or 'none'}")
        return wanted

    def read(self, top: str, foreign: frozenset[str]) -> None:
        """Walk over what the top module uses. Raises Rejected for what breaks the policy."""
        members = self._members if self._trusted else self._used_by(top)
        self.declared = [name_of(member) for member in members if member.kind in GLOBAL]
        if len(set(self.declared)) != len(self.declared):
            raise Rejected("a module is declared twice")
        self._packages = [name_of(member) for member in members if member.kind == SyntaxKind.PackageDeclaration]
        for member in members:
            self._read(member)
        if not self._trusted:
            unknown = {plain(self.tokens[position]) for position in self.mentions} - set(self.declared)
            if unknown:
                raise Rejected(f"instance of module {min(unknown)}, which the response does not declare")
            self._check_lookups(members, foreign)

    def _used_by(self, top: str) -> list[SyntaxNode]:
        """The top, the modules and primitives below it, and all that is no module or primitive."""
        if sum(member.kind in GLOBAL for member in self._members) == 1:
            return self._members
        uses: dict[str, set[str]] = {}
        for member in self._members:
            if member.kind in GLOBAL:
                uses.setdefault(name_of(member), set()).update(instantiated(member))
        reached, waiting = set(), {top}
        while waiting:
            name = waiting.pop()
            reached.add(name)
            waiting |= uses.get(name, set()) - reached
        droppable = (MODULE, SyntaxKind.UdpDeclaration)
        return [member for member in self._members if member.kind not in droppable or name_of(member) in reached]

    def _read(self, member: SyntaxNode) -> None:
        self._module = member if member.kind == MODULE else None
        self._ports = None
        self.sociable = self.sociable and member.kind in QUIET
        if not self._keep(member, depth=1):
            return
        stack: list[tuple[SyntaxNode, Iterator, Token | None]] = [(member, iter(member), global_name(member))]
        while stack:
            node, children, name = stack[-1]
            child = next(children, None)
            if child is None:
                stack.pop()
            elif not isinstance(child, Token):
                if self._keep(child, depth=len(stack) + 1):
                    stack.append((child, iter(child), global_name(child)))
            elif child.rawText and child.kind not in policy.HINTS:
                if name is not None and child.kind == NAME and child.rawText == name.rawText:
                    self.mentions.append(len(self.tokens))
                    stack[-1] = (node, children, None)
                self._check_token(child.kind, child.rawText, node)
                self._put(child.kind, child.rawText)

    def _put(self, kind: TokenKind, text: str) -> None:
        self.tokens.append(text)
        self.token_kinds.append(kind)

    def _put_nothing(self) -> None:
        for word in ("begin", "end"):
            self._put(TokenKind.Unknown, word)

    def _keep(self, node: SyntaxNode, depth: int) -> bool:
        """Check a node; False where it is dropped, or put as a whole."""
        kind = node.kind
        if kind not in TREATED:
            self._enter(node, depth)
            return True
        if kind in policy.DROPPED:
            return False
        if kind == SyntaxKind.NamedBlockClause and node.parent.kind in GLOBAL:
            return False  # the name after `endmodule`
        if kind in policy.DROPPED_MEMBERS:
            if not self._trusted and changes_something(node):
                raise Rejected("an assertion that does more than call system tasks is not allowed in a design")
            if node.parent.kind not in BODIES:  # the only member of an if or a loop
                self._put_nothing()
            return False
        if kind in policy.DROPPED_STATEMENTS or (kind in STATEMENT and called_task(node) in policy.PRINTING):
            if not self._trusted and changes_something(node):
                raise Rejected("an assertion that does more than call system tasks is not allowed in a design")
            self._put_nothing()
            return False
        self._enter(node, depth)
        if kind in ONE_WORD:
            text = "".join(child.rawText for below in deep(node) for child in below if isinstance(child, Token))
            self._put(TokenKind.Unknown, text)
            return False
        return True

    def _enter(self, node: SyntaxNode, depth: int) -> None:
        kind = node.kind
        self.kinds.add(kind)
        if kind == SyntaxKind.NetDeclaration and any(
            child.kind == SyntaxKind.EqualsValueClause for child in deep(node)
        ):
            self.assigns_nets = True
        if self._trusted:
            return
        if kind not in policy.ALLOWED:
            raise Rejected(f"{readable(kind)} is not allowed in a design")
        if kind in GLOBAL and depth != 1:
            raise Rejected("a module inside a module is not allowed in a design")
        if kind == MODULE:
            shared = shared_port_net(node.header)
            if shared is not None:
                raise Rejected(f"ports that join at {shared} are not allowed in a design")
        if kind == SyntaxKind.NetDeclaration and node.getFirstToken().rawText in policy.SUPPLIES:
            if self._ports is None and self._module is not None:
                self._ports = ports_of(self._module)
            if self._ports is None or self._ports & declared_in(node):
                raise Rejected("a supply net that is a port is not allowed in a design")
        if kind in NOTED:
            self._note(node)

    def _note(self, node: SyntaxNode) -> None:
        """Take down the names that the simulator would look up beyond the module."""
        kind = node.kind
        if kind in SCOPED and node.parent.kind in SCOPED:
            return  # the whole of `a.b.c` is what counts, and was noted
        if kind == SyntaxKind.PackageImportItem or (kind in SCOPED and begins_with_package(node)):
            token = node.getFirstToken()
            if token.kind != NAME or plain(token.rawText) not in self._packages:
                raise Rejected(f"package or class {token.rawText}, which the response does not declare")
        elif kind in SCOPED:
            self._lookups.append(Mention(plain(node.getFirstToken().rawText), self._module, "hierarchical reference"))
        elif kind in CALLS or kind in STATEMENT or kind == SyntaxKind.DisableStatement:
            for child in node:
                if not isinstance(child, Token) and child.kind in CALLEES:
                    self._lookups.append(Mention(plain(child.getFirstToken().rawText), self._module, "call"))

    def _check_token(self, kind: TokenKind, text: str, node: SyntaxNode) -> None:
        if "\n" in text:
            raise Rejected("a token runs over several lines")
        if self._trusted:
            return
        if text.startswith("\\") and any(mark in text for mark in policy.UNSAFE_IN_NAMES):
            raise Rejected(f"the escaped name {text} holds a character that the simulator may read as more than a name")
        if kind == TokenKind.SystemIdentifier and text not in policy.FUNCTIONS:
            raise Rejected(f"{text} is not allowed in a design")
        if text in policy.PULLING or (text in policy.SUPPLIES and node.kind != SyntaxKind.NetDeclaration):
            raise Rejected(f"{text} is not allowed in a design, where it could drive what is outside")

    def _check_lookups(self, members: list[SyntaxNode], foreign: frozenset[str]) -> None:
        outside = [declared_in(member) for member in members if member.kind not in (MODULE, SyntaxKind.UdpDeclaration)]
        shared = frozenset().union(*outside)
        taken = shared & foreign
        if taken:
            raise Rejected(f"a declaration outside modules of a name that the testbench has, {min(taken)}")
        known: dict[int, set[str]] = {}
        for lookup in self._lookups:
            names = shared
            if lookup.module is not None:
                key = id(lookup.module)
                if key not in known:
                    known[key] = declared_in(lookup.module)
                names = shared | known[key]
            if lookup.name in foreign or lookup.name not in names:
                raise Rejected(f"{lookup.what} that leaves the design, {lookup.name}")

    def _fault(self, diagnostic: Diagnostic) -> str:
        line = self._sources.getLineNumber(diagnostic.location)
        return f"does not parse: {words(str(diagnostic.code).split('(')[-1].rstrip(')'))} in line {line}"


def name_of(member: SyntaxNode) -> str:
    """The name that a module, primitive or package declares."""
    head = member if member.kind in HEADS else member.header
    return plain(head.name.rawText)


def instantiated(member: SyntaxNode) -> set[str]:
    """Names of modules and primitives that a member has instances of."""
    tokens = [global_name(node) for node in deep(member) if node.kind in INSTANTIATES]
    return {plain(token.rawText) for token in tokens if token is not None}
