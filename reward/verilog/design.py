"""From source text to a Design: parsed, checked against the policy, and printable under any module names.

    source --checked_source--> text --pyslang--> syntax tree --policy--> tokens --> Design.render(prefix)

The simulator reads the tokens of the tree, one design a line, so it cannot read anything into comments, directives or
odd spacing that the policy did not see. Names of modules are open until `render`, so designs share a simulation without
knowing of each other.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from pyslang import Diagnostic, SourceManager
from pyslang.parsing import Token, TokenKind
from pyslang.syntax import SyntaxKind, SyntaxNode, SyntaxTree

from reward.verilog import policy
from reward.verilog.directives import checked_source
from reward.verilog.errors import Rejected

MAX_CALM_TOKENS = 2000
MAX_CALM_NUMBER_CHARS = 3  # a calm design has no bound of 1000 or more

MODULE, NAME = SyntaxKind.ModuleDeclaration, TokenKind.Identifier
CALLS = policy.kinds("InvocationExpression")
SCOPED = policy.kinds("ScopedName")
STATEMENT = policy.kinds("ExpressionStatement")
CALLEES = policy.kinds("IdentifierName")
DECLARES = policy.kinds("Declarator InstanceName NamedBlockClause NamedLabel FunctionPrototype")


@dataclass(frozen=True, kw_only=True)
class Design:
    """Source that passed the policy.

    parts, slots   the tokens as text, cut at every mention of a module: parts[0] + module slots[0] + parts[1] + ...
    modules        their names, as the source has them; `top` is the index of the wanted one
    calm           made of gates only (policy.CALM), so that without a loop nothing can hang
    looped         its assignments feed back into themselves; `render` then gives each one unit of delay
    sociable       may share a simulation: declares nothing outside its modules
    """

    parts: tuple[str, ...]
    slots: tuple[int, ...]
    modules: tuple[str, ...]
    top: int
    calm: bool
    looped: bool
    sociable: bool

    @cached_property
    def text(self) -> str:
        """The design under its own names: equal for sources that differ in spacing and comments."""
        return self._printed(self.modules)

    def render(self, prefix: str, top_name: str | None = None) -> str:
        """One line of Verilog in which module i is called `<prefix>_<i>`, and the top `top_name` where one is given."""
        names = [f"{prefix}_{index}" for index in range(len(self.modules))]
        if top_name is not None:
            names[self.top] = top_name
        return self._printed(names)

    def top_name(self, prefix: str) -> str:
        return f"{prefix}_{self.top}"

    def _printed(self, names: tuple[str, ...] | list[str]) -> str:
        pieces = [self.parts[0]]
        for slot, part in zip(self.slots, self.parts[1:], strict=True):
            pieces += (names[slot], part)
        return " ".join(pieces)


def parse_design(
    source: str, top_module: str | None, *, trusted: bool = False, foreign: frozenset[str] = frozenset()
) -> Design:
    """The design in `source`. Raises Rejected, with the reason, for what does not parse or breaks the policy.

    `top_module` None takes the one module nobody instantiates. `foreign` are names of a harness around the design that
    no dotted name or call may begin with. A `trusted` source (a reference) is parsed but not checked.
    """
    return TreeReader(source, trusted=trusted).design(top_module, foreign)


@dataclass(frozen=True, slots=True)
class Mention:
    """A name that the simulator would look up outside the module if it is not declared inside."""

    name: str
    module: SyntaxNode | None
    what: str  # "hierarchical reference" or "call"


class TreeReader:
    """One walk over the syntax tree: tokens out, policy checked on the way."""

    def __init__(self, source: str, *, trusted: bool) -> None:
        self.trusted = trusted
        self.tokens: list[str] = []
        self.token_kinds: list[TokenKind] = []
        self.mentions_of_modules: list[int] = []  # positions in tokens
        self.declared: list[str] = []  # names of modules
        self.instantiated: list[str] = []
        self.lookups: list[Mention] = []
        self.kinds: set[SyntaxKind] = set()
        self.sociable = True
        self.assigns_nets = False
        self._module: SyntaxNode | None = None

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
        self._read(self._tree.root)

    def design(self, top_module: str | None, foreign: frozenset[str]) -> Design:
        if len(set(self.declared)) != len(self.declared):
            raise Rejected("a module is declared twice")
        if top_module is None:
            tops = [name for name in self.declared if name not in self.instantiated]
            if len(tops) != 1:
                raise Rejected(f"expected one module that nobody instantiates, found {len(tops)}")
            top_module = tops[0]
        if top_module not in self.declared:
            raise Rejected(f"no module {top_module}, only {', '.join(self.declared) or 'none'}")
        if not self.trusted:
            self._check_lookups(foreign)
            unknown = [name for name in self.instantiated if name not in self.declared]
            if unknown:
                raise Rejected(f"instance of module {unknown[0]}, which the response does not declare")
        calm = (
            self.kinds <= policy.CALM
            and len(self.declared) == 1
            and len(self.tokens) <= MAX_CALM_TOKENS
            and not self._has_big_number()
        )
        looped = calm and has_loop(dependencies(self.tokens, self.token_kinds))
        if looped and self.assigns_nets:
            calm = looped = False  # a declaration cannot be given a delay as simply as an assignment
        return self._design(top_module, calm=calm, looped=looped)

    def _design(self, top_module: str, *, calm: bool, looped: bool) -> Design:
        index = {name: position for position, name in enumerate(self.declared)}
        tokens = self.tokens
        if looped:
            tokens = ["assign #1" if token == "assign" else token for token in tokens]
        parts, slots, start = [], [], 0
        for position in self.mentions_of_modules:
            slot = index.get(tokens[position])
            if slot is None:
                continue  # a trusted source may instantiate what its harness declares
            parts.append(" ".join(tokens[start:position]))
            slots.append(slot)
            start = position + 1
        parts.append(" ".join(tokens[start:]))
        return Design(
            parts=tuple(parts),
            slots=tuple(slots),
            modules=tuple(self.declared),
            top=index[top_module],
            calm=calm,
            looped=looped,
            sociable=self.sociable,
        )

    def _read(self, root: SyntaxNode) -> None:
        base = 0  # depth of the root's children, less one
        if root.kind != SyntaxKind.CompilationUnit:  # the parser hands over a lone member as the root
            self._enter(root, depth=1)
            base = 1
        stack = [iter(root)]
        names_module = root.kind == MODULE
        while stack:
            child = next(stack[-1], None)
            if child is None:
                stack.pop()
                continue
            if isinstance(child, Token):
                kind, text = child.kind, child.rawText
                if not text:
                    continue
                if names_module and kind == NAME:
                    self.mentions_of_modules.append(len(self.tokens))
                    (self.declared if self._heads_module else self.instantiated).append(text)
                    names_module = False
                self._check_token(kind, text)
                self.tokens.append(text)
                self.token_kinds.append(kind)
                continue
            kind = child.kind
            if kind in policy.DROPPED:
                continue
            depth = len(stack) + base
            if kind == SyntaxKind.NamedBlockClause and child.parent.kind == MODULE:
                continue  # the name after `endmodule`
            if kind in STATEMENT and prints(child):
                self.tokens.append(";")
                self.token_kinds.append(TokenKind.Semicolon)
                continue
            self._enter(child, depth)
            if kind == SyntaxKind.ModuleHeader or kind == SyntaxKind.HierarchyInstantiation:
                names_module = True
                self._heads_module = kind == SyntaxKind.ModuleHeader
            stack.append(iter(child))

    def _enter(self, node: SyntaxNode, depth: int) -> None:
        kind = node.kind
        self.kinds.add(kind)
        if depth == 1:
            if kind == MODULE:
                self._module = node
            elif kind != SyntaxKind.EmptyMember:
                self._module = None
                self.sociable = False
        if kind == SyntaxKind.NetDeclaration and any(
            child.kind == SyntaxKind.EqualsValueClause for child in deep(node)
        ):
            self.assigns_nets = True
        if self.trusted:
            return
        if kind not in policy.ALLOWED:
            raise Rejected(f"{readable(kind)} is not allowed in a design")
        if kind == MODULE and depth != 1:
            raise Rejected("a module inside a module is not allowed in a design")
        if kind in SCOPED:
            self.lookups.append(Mention(node.getFirstToken().rawText, self._module, "hierarchical reference"))
        elif kind in CALLS or kind in STATEMENT or kind == SyntaxKind.DisableStatement:
            for child in node:
                if not isinstance(child, Token) and child.kind in CALLEES:
                    self.lookups.append(Mention(child.getFirstToken().rawText, self._module, "call"))

    def _check_token(self, kind: TokenKind, text: str) -> None:
        if "\n" in text:
            raise Rejected("a token runs over several lines")
        if self.trusted:
            return
        if kind == TokenKind.SystemIdentifier and text not in policy.FUNCTIONS:
            raise Rejected(f"{text} is not allowed in a design")
        if text in policy.PULLING:
            raise Rejected(f"{text} is not allowed in a design")
        if kind == TokenKind.DoubleColon:
            raise Rejected("a package or class scope (::) is not allowed in a design")

    def _check_lookups(self, foreign: frozenset[str]) -> None:
        for lookup in self.lookups:
            if lookup.name in foreign or lookup.name not in declared_in(lookup.module or self._tree.root):
                raise Rejected(f"{lookup.what} that leaves the design, {lookup.name}")

    def _has_big_number(self) -> bool:
        return any(
            kind == TokenKind.IntegerLiteral and len(text) > MAX_CALM_NUMBER_CHARS
            for kind, text in zip(self.token_kinds, self.tokens, strict=True)
        ) or any(left == "]" and right == "[" for left, right in zip(self.tokens, self.tokens[1:], strict=False))

    def _fault(self, diagnostic: Diagnostic) -> str:
        line = self._sources.getLineNumber(diagnostic.location)
        return f"does not parse: {words(str(diagnostic.code).split('(')[-1].rstrip(')'))} in line {line}"


def prints(statement: SyntaxNode) -> bool:
    """Whether a statement is a call of a system task that only prints."""
    for child in statement:
        if isinstance(child, Token):
            continue
        if child.kind == SyntaxKind.InvocationExpression or child.kind == SyntaxKind.SystemName:
            return child.getFirstToken().rawText in policy.PRINTING
    return False


def deep(node: SyntaxNode) -> Iterator[SyntaxNode]:
    """The node and every node below it, without recursion: a tree can be as deep as its text is long."""
    stack = [node]
    while stack:
        here = stack.pop()
        yield here
        stack += [child for child in here if not isinstance(child, Token)]


def declared_in(module: SyntaxNode) -> set[str]:
    """Names of variables, instances, blocks and subroutines declared anywhere in a module."""
    names: set[str] = set()
    for node in deep(module):
        if node.kind in DECLARES:
            for child in node:
                if not isinstance(child, Token) and child.kind in CALLEES:
                    child = child.getFirstToken()
                if isinstance(child, Token) and child.kind == NAME:
                    names.add(child.rawText)
                    break
    return names


def dependencies(tokens: list[str], token_kinds: list[TokenKind]) -> dict[str, set[str]]:
    """For a calm design: assigned name -> names its value is made of. Indices count as both."""
    reads: dict[str, set[str]] = {}
    target: set[str] = set()
    source: set[str] = set()
    state, depth = "outside", 0

    def close() -> None:
        for name in target:
            reads.setdefault(name, set()).update(source)
        target.clear()
        source.clear()

    for token, kind in zip(tokens, token_kinds, strict=True):
        if kind == TokenKind.AssignKeyword or token == "wire":
            state = "target"
        elif kind == TokenKind.Semicolon:
            close()
            state = "outside"
        elif kind in policy.OPENERS:
            depth += 1
        elif kind in policy.CLOSERS:
            depth -= 1
        elif kind == TokenKind.Comma and depth == 0:
            close()
            state = "target" if state != "outside" else state
        elif kind == TokenKind.Equals:
            state = "source" if state == "target" else state
        elif kind == NAME and state == "target":
            target.add(token)
        elif kind == NAME and state == "source":
            source.add(token)
    return reads


def has_loop(reads: dict[str, set[str]]) -> bool:
    """Whether some name depends on itself. Removes names that depend on nothing unresolved until none can be."""
    waiting = {name: {source for source in sources if source in reads} for name, sources in reads.items()}
    while ready := [name for name, sources in waiting.items() if not sources]:
        for name in ready:
            del waiting[name]
        for sources in waiting.values():
            sources.difference_update(ready)
    return bool(waiting)


def readable(kind: SyntaxKind) -> str:
    return words(str(kind).rpartition(".")[2])


def words(camel: str) -> str:
    """`ProceduralForceStatement` -> `procedural force statement`."""
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in camel).strip()
