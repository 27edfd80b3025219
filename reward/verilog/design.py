"""From source text to a Design: parsed, checked against the policy, and printable under any module names.

    source --checked_source--> text --pyslang--> syntax tree --TreeReader--> tokens --> Design.render(prefix)

The simulator reads the tokens of the tree, one design a line, so it cannot read anything into comments, directives or
odd spacing that the policy did not see. Names that are visible to other designs (of modules, primitives, packages) are
open until `render`, so designs share a simulation without knowing of each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from pyslang.parsing import TokenKind

from reward.verilog import policy
from reward.verilog.loops import dependencies, has_loop
from reward.verilog.reader import TreeReader
from reward.verilog.syntax import deep as deep
from reward.verilog.syntax import plain

SCOPE = "::"
MAX_CALM_TOKENS = 2000
MAX_CALM_NUMBER_CHARS = 3  # a calm design has no bound of 1000 or more


@dataclass(frozen=True, kw_only=True)
class Design:
    """Source that passed the policy.

    parts, slots   the tokens as text, cut at every mention of a module: parts[0] + module slots[0] + parts[1] + ...
    modules        their names, as the source has them, and those of primitives and packages; `top` is the index of the
                   wanted module
    calm           made of gates only (policy.CALM), so that without a loop nothing can hang
    looped         its assignments feed back into themselves; `render` then gives each one unit of delay
    sociable       may share a simulation: declares nothing that others could see but what `render` names
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
        words = [self.parts[0]]
        for slot, part in zip(self.slots, self.parts[1:], strict=True):
            words += (names[slot], part)
        return spaced(words)


def parse_design(
    source: str, top_module: str | None, *, trusted: bool = False, foreign: frozenset[str] = frozenset()
) -> Design:
    """The design in `source`. Raises Rejected, with the reason, for what does not parse or breaks the policy.

    Modules that the top does not use, a testbench for instance, are left out. `top_module` None takes the one module
    nobody instantiates. `foreign` are names of a harness around the design that no dotted name or call may begin with.
    A `trusted` source (a reference) is parsed but not checked, and kept whole.
    """
    reader = TreeReader(source, trusted=trusted)
    top_module = reader.top(top_module)
    reader.read(top_module, foreign)
    tokens, kinds = reader.tokens, reader.token_kinds
    calm = (
        reader.kinds <= policy.CALM
        and len(reader.declared) == 1
        and len(tokens) <= MAX_CALM_TOKENS
        and not has_big_number(tokens, kinds)
    )
    looped = calm and has_loop(dependencies(tokens, kinds))
    if looped and reader.assigns_nets:
        calm = looped = False  # a declaration cannot be given a delay as simply as an assignment
    if looped:
        tokens = ["assign #1" if token == "assign" else token for token in tokens]
    index = {name: position for position, name in enumerate(reader.declared)}
    parts, slots, start = [], [], 0
    for position in reader.mentions:
        slot = index.get(plain(tokens[position]))
        if slot is None:
            continue  # a trusted source may instantiate what its harness declares
        parts.append(spaced(tokens[start:position]))
        slots.append(slot)
        start = position + 1
    parts.append(spaced(tokens[start:]))
    return Design(
        parts=tuple(parts),
        slots=tuple(slots),
        modules=tuple(reader.declared),
        top=index[top_module],
        calm=calm,
        looped=looped,
        sociable=reader.sociable and not trusted,  # what nobody checked could see and end its mates
    )


def spaced(words: Sequence[str]) -> str:
    """Words with a space between them, except around `::`, which the simulator reads with the name before it."""
    text = " ".join(words)
    if SCOPE not in text:
        return text
    pieces: list[str] = []
    for word in words:
        if pieces and not word.startswith(SCOPE) and not pieces[-1].endswith(SCOPE):
            pieces.append(" ")
        pieces.append(word)
    return "".join(pieces)


def has_big_number(tokens: list[str], kinds: list[TokenKind]) -> bool:
    """Whether a design could be large in spite of few tokens."""
    return any(
        kind == TokenKind.IntegerLiteral and len(text) > MAX_CALM_NUMBER_CHARS
        for kind, text in zip(kinds, tokens, strict=True)
    ) or any(left == "]" and right == "[" for left, right in zip(tokens, tokens[1:], strict=False))
