"""Find the Verilog in a response: the last fenced block that holds the wanted module, or the bare module text.

    response --after </think>--> answer --fences--> blocks --wanted module, what it uses--> source
                                        --no fence--> modules, packages and directives amid the prose

Every search is linear in the response, which a policy may make as long as it is allowed to.
"""

import re

from reward.thinking import THINK_END

FENCE = re.compile(r"```[ \t]*([^\n`]*)(?:\n|(?=`)|\Z)(.*?)(?:```|\Z)", re.DOTALL)
LANGUAGE = re.compile(r"(?:systemverilog|verilog|sv|v)?[ \t\r]*$|(?:systemverilog|verilog|sv)\s+", re.IGNORECASE)
HEAD = r"(?:macro)?module\s+(?:automatic\s+|static\s+)?(\\\S+|\w+)\s*(?=[#(;`]|//|/\*|import\b)"
LINE_HEAD = re.compile(rf"^[ \t]*(?:\(\*[^\n]*?\*\)[ \t]*)?{HEAD}", re.MULTILINE)
ANY_HEAD = re.compile(rf"\b{HEAD}")
MODULE_END = re.compile(r"\bendmodule\b(?:[ \t]*:[ \t]*\w+)?")
LAST_END = re.compile(r"\bend(?:module|package|primitive|if)\b(?:[ \t]*:[ \t]*\w+)?")
DIRECTIVE = re.compile(r"^[ \t]*`[a-z](?:\\\r?\n|[^\n])*", re.MULTILINE)
OTHER = re.compile(r"^[ \t]*(package|primitive)\s+\w+\s*[;(]", re.MULTILINE)
CODE = re.compile(
    r"\s*(?:`[a-z]+\s|//|/\*|\(\*|(?:module|macromodule|package|primitive|typedef|import|localparam|function)\s)"
)
WORD = re.compile(r"\w+")


def extract_verilog(response: str, top_module: str) -> str | None:
    """The source text of the answer, or None where the response holds no module.

    Reasoning before `</think>` is not the answer. With fences, the last block that declares the wanted module, or else
    the last with a module, is; other blocks are added for modules that it mentions and does not declare.
    """
    answer = response.rpartition(THINK_END)[2]
    blocks = [text for found in FENCE.finditer(answer) if (text := block_text(*found.groups())) and modules_in(text)]
    if not blocks:
        return bare_text(answer.replace("```", "\n"))
    chosen = next((index for index in reversed(range(len(blocks))) if top_module in modules_in(blocks[index])), None)
    return with_used(blocks, len(blocks) - 1 if chosen is None else chosen)


def block_text(line: str, rest: str) -> str:
    """The code of a fenced block. What stands on the line of the fence is code where it is more than a language."""
    language = LANGUAGE.match(line)
    line = line[language.end() :] if language else line
    return f"{line}\n{rest}" if "module" in line or line.startswith("`") else rest


def modules_in(text: str) -> set[str]:
    """Names of the modules that a text declares and ends."""
    last = text.rfind("endmodule")
    return {found.group(1) for found in ANY_HEAD.finditer(text, 0, last)} if last >= 0 else set()


def with_used(blocks: list[str], chosen: int) -> str:
    """The chosen block, after the blocks whose modules it mentions: some answers give each module a block."""
    parts, declared = [blocks[chosen]], modules_in(blocks[chosen])
    words = set(WORD.findall(blocks[chosen]))
    waiting = [block for index, block in enumerate(blocks) if index != chosen]
    for block in reversed(waiting):
        names = modules_in(block)
        if names & words - declared and not names & declared:
            parts.insert(0, block)
            declared |= names
            words |= set(WORD.findall(block))
    return "\n".join(parts)


def bare_text(answer: str) -> str | None:
    """Code without fences: all of it where it begins as code, else its modules and what they need."""
    text = answer.lstrip("\ufeff")
    if "endmodule" not in text:
        return None
    if CODE.match(text):
        ends = list(LAST_END.finditer(text))
        return text[: ends[-1].end()] if ends and ANY_HEAD.search(text) else None
    heads = LINE_HEAD if LINE_HEAD.search(text) else ANY_HEAD
    pieces: list[str] = []
    position = 0
    while (head := heads.search(text, position)) and (end := MODULE_END.search(text, head.end())):
        pieces += between(text[position : head.start()])
        pieces.append(text[head.start() : end.end()])
        position = end.end()
    return "\n".join(pieces) if pieces else None


def between(text: str) -> list[str]:
    """Directives, packages and primitives in the prose between modules."""
    pieces: list[str] = []
    position = 0
    while found := OTHER.search(text, position):
        end = text.find(f"end{found.group(1)}", found.end())
        if end < 0:
            break
        pieces += DIRECTIVE.findall(text[position : found.start()])
        position = end + len(f"end{found.group(1)}")
        pieces.append(text[found.start() : position])
    return pieces + DIRECTIVE.findall(text[position:])
