"""The text a parser may see: comments blanked, and only harmless compiler directives.

This runs before the parser because the preprocessor is part of it: an `include would read files of this machine, and
macros that use macros grow without bound.
"""

import re

from reward.verilog.errors import Rejected
from reward.verilog.policy import words

MAX_SOURCE_CHARS = 1 << 16
MAX_MACRO_CHARS = 256
MAX_MACRO_USES = 1024

HARMLESS = words("undef ifdef ifndef else elsif endif timescale default_nettype resetall celldefine endcelldefine")
COMMENT_OR_QUOTED = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\\\S+', re.DOTALL)
DEFINITION = re.compile(r"`define[ \t]+(\w+)(\(?)((?:\\\n|[^\n])*)")
DIRECTIVE = re.compile(r"`(\w*)")


def checked_source(source: str) -> str:
    """The source with comments blanked. Raises Rejected for text the preprocessor must not see."""
    if len(source) > MAX_SOURCE_CHARS:
        raise Rejected(f"the source has {len(source)} characters, at most {MAX_SOURCE_CHARS} are read")
    if "\0" in source or '"""' in source:
        raise Rejected("the source holds a null character or a triple-quoted string")
    if "`" not in source and "/" not in source:
        return source
    text = COMMENT_OR_QUOTED.sub(blanked, source)
    macros: set[str] = set()
    for name, parameters, body in DEFINITION.findall(text):
        if parameters or "`" in body or len(body) > MAX_MACRO_CHARS:
            raise Rejected(
                f"macro {name} has parameters, uses another macro or is longer than {MAX_MACRO_CHARS} characters"
            )
        macros.add(name)
    uses = DIRECTIVE.findall(text)
    if len(uses) > MAX_MACRO_USES:
        raise Rejected(f"the source has {len(uses)} directives and macro uses, at most {MAX_MACRO_USES} are read")
    for name in uses:
        if name != "define" and name not in HARMLESS and name not in macros:
            raise Rejected(f"directive or undefined macro `{name}")
    return text


def blanked(match: re.Match[str]) -> str:
    """A comment is a space; a string keeps all but the mark of a directive, which means nothing there."""
    text = match.group()
    if text[0] == "/":
        return " "
    return text.replace("`", "'") if text[0] == '"' else text
