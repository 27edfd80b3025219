"""Find the Verilog in a response: the last fenced block that holds the wanted module, or the bare module text."""

import re

THINK_END = "</think>"
FENCE = re.compile(r"```[^\n`]*\n(.*?)(?:```|\Z)", re.DOTALL)
MODULE = re.compile(r"\bmodule\b.*\bendmodule\b(?:[ \t]*:[ \t]*\w+)?", re.DOTALL)


def extract_verilog(response: str, top_module: str) -> str | None:
    """The source text of the answer, or None where the response holds no module.

    Reasoning before `</think>` is not the answer. Without fences, everything from the first `module` to the last
    `endmodule` is.
    """
    answer = response.rpartition(THINK_END)[2]
    blocks = [block for block in FENCE.findall(answer) if MODULE.search(block)]
    if blocks:
        wanted = re.compile(rf"\bmodule\s+(?:automatic\s+|static\s+)?{re.escape(top_module)}\b")
        return next((block for block in reversed(blocks) if wanted.search(block)), blocks[-1])
    bare = MODULE.search(answer)
    return bare.group() if bare else None
