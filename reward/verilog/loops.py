"""Whether gates feed back into themselves: assignments of a calm design, read from its tokens."""

from pyslang.parsing import TokenKind

from reward.verilog import policy


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
        elif kind == TokenKind.Identifier and state == "target":
            target.add(token)
        elif kind == TokenKind.Identifier and state == "source":
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
