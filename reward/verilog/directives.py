"""The text a parser may see: no comments, no macros, no conditional text, no directives but `timescale.

    source --checked_source--> text in the same lines

We expand macros ourselves, before the parser and the simulator, because their own preprocessors read files and let
macros grow without bound. What comes out is parsed and checked like anything written out by hand, so a macro can hide
nothing; here it only has to stay small.
"""

import re
from dataclasses import dataclass

from reward.verilog.errors import Rejected
from reward.verilog.policy import words

MAX_SOURCE_CHARS = 1 << 16
MAX_EXPANDED_CHARS = 1 << 17  # of all macro uses together
MAX_MACRO_DEPTH = 32  # of macros in macros
MAX_DIRECTIVES = 4096

DROPPED = {  # directive -> what follows it
    "default_nettype": r"[ \t]*\w+",
    "resetall": "",
    "celldefine": "",
    "endcelldefine": "",
    "nounconnected_drive": "",
}
CONDITIONS = words("ifdef ifndef elsif else endif")
RESERVED = words("define undef timescale include line pragma") | CONDITIONS | set(DROPPED)

# `\S` knows more spaces than the languages do
ESCAPED = r"\\[^ \t\n]+"
STRING = r'"(?:\\.|[^"\\\n])*"'
# a comment that does not end is one match too: tried again at each of many, it would cost the square of their number
COMMENT_OR_QUOTED = re.compile(rf"//[^\n]*|/\*.*?(?:\*/|\Z)|{STRING}|{ESCAPED}", re.DOTALL)
PLAIN_TO_QUOTED = re.compile(rf"{STRING}|{ESCAPED}|`", re.DOTALL)
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
BLANK = re.compile("\r\n?|[\f\v\ufeff\u00a0]")  # line ends and spaces that editors and models leave behind
NAME = re.compile(r"`?([A-Za-z_][\w$]*)")
DEFINITION = re.compile(r"[ \t]+([A-Za-z_][\w$]*)(?:\(([^()\n]*)\))?((?:\\[ \t]*\n|[^\n])*)")
CONDITION = re.compile(r"[ \t]+([A-Za-z_][\w$]*)")
PARAMETER = re.compile(r"[ \t]*([A-Za-z_]\w*)[ \t]*(?:=(.*))?", re.DOTALL)
ARGUMENT_PIECE = re.compile(rf"{STRING}|{ESCAPED}[ \t\n]?|[()\[\]{{}},]|[^\\\"()\[\]{{}},]+|.", re.DOTALL)
BODY_PIECE = re.compile(rf"{STRING}|{ESCAPED}|[A-Za-z_][\w$]*|.", re.DOTALL)


def checked_source(source: str) -> str:
    """The source as above. Raises Rejected for text the parser must not see."""
    if len(source) > MAX_SOURCE_CHARS:
        raise Rejected(f"the source has {len(source)} characters, at most {MAX_SOURCE_CHARS} are read")
    text = BLANK.sub(lambda found: "\n" if "\r" in found.group() else " ", source)
    if UNPRINTABLE.search(text) or '"""' in text:
        raise Rejected("the source holds an unprintable character or a triple-quoted string")
    if "`" not in text and "/" not in text:
        return text
    return Preprocessor().run(COMMENT_OR_QUOTED.sub(blanked, text))


def blanked(match: re.Match[str]) -> str:
    """A comment is a space, with its line ends; a string keeps all but the mark of a directive, which is none there."""
    text = match.group()
    if text[0] == "/":
        if text[1] == "*" and (len(text) < len("/**/") or not text.endswith("*/")):
            raise Rejected("a comment does not end")
        return " " + "\n" * text.count("\n")
    if text[0] == "\\" and "`" in text:
        raise Rejected("an escaped name holds a `")
    return text.replace("`", "'")


@dataclass(frozen=True, slots=True, kw_only=True)
class Macro:
    """`parameters`: (name, default or None) each; None for a macro that is used without parentheses."""

    parameters: tuple[tuple[str, str | None], ...] | None
    body: str


class Preprocessor:
    """Reads one text from start to end."""

    def __init__(self) -> None:
        self._macros: dict[str, Macro] = {}
        self._room = MAX_EXPANDED_CHARS
        self._directives = 0
        self._conditions: list[tuple[bool, bool]] = []  # innermost last: (text is read, a branch was read)

    def run(self, text: str) -> str:
        pieces: list[str] = []
        position = 0
        for start, name, end in self._marks(text):
            if start < position:
                continue  # inside what a directive took
            self._put(pieces, text[position:start])
            position = self._directive(name, text, end, pieces)
        self._put(pieces, text[position:])
        if self._conditions:
            raise Rejected("an `ifdef has no `endif")
        return "".join(pieces)

    def _marks(self, text: str) -> list[tuple[int, str, int]]:
        """(start, name, end) of each backtick and the name after it, outside strings and escaped names."""
        marks = []
        for found in PLAIN_TO_QUOTED.finditer(text):
            if found.group() == "`":
                name = NAME.match(text, found.start())
                marks.append((found.start(), name.group(1) if name else "", name.end() if name else found.end()))
        if len(marks) > MAX_DIRECTIVES:
            raise Rejected(f"the source has {len(marks)} directives and macro uses, at most {MAX_DIRECTIVES} are read")
        return marks

    @property
    def _reading(self) -> bool:
        return not self._conditions or self._conditions[-1][0]

    def _put(self, pieces: list[str], text: str) -> None:
        pieces.append(text if self._reading else "\n" * text.count("\n"))

    def _directive(self, name: str, text: str, end: int, pieces: list[str]) -> int:
        """Do what a directive says; where the text goes on after it."""
        if name in CONDITIONS:
            return self._condition(name, text, end)
        if name == "define":
            return self._define(text, end, pieces)
        if not self._reading:
            return end
        if name == "undef":
            found = CONDITION.match(text, end)
            self._macros.pop(found.group(1) if found else "", None)
            return found.end() if found else end
        if name == "timescale":
            pieces.append("`timescale")
            return end
        if name in DROPPED:
            found = re.compile(DROPPED[name]).match(text, end)
            return found.end() if found else end
        expanded, end = self._use(name, text, end, depth=0)
        pieces.append(expanded)
        return end

    def _condition(self, name: str, text: str, end: int) -> int:
        wanted = True
        if name in ("ifdef", "ifndef", "elsif"):
            found = CONDITION.match(text, end)
            if found is None:
                raise Rejected(f"`{name} without a name")
            wanted, end = (found.group(1) in self._macros) == (name != "ifndef"), found.end()
        if name in ("ifdef", "ifndef"):
            self._conditions.append((self._reading and wanted, not self._reading or wanted))
            return end
        if not self._conditions:
            raise Rejected(f"`{name} without `ifdef")
        _, read_one = self._conditions.pop()
        if name != "endif":
            self._conditions.append((wanted and not read_one, wanted or read_one))
        return end

    def _define(self, text: str, end: int, pieces: list[str]) -> int:
        found = DEFINITION.match(text, end)
        if found is None:
            raise Rejected("`define without a name")
        name, parameters, body = found.groups()
        if self._reading:
            if name in RESERVED:
                raise Rejected(f"`define of the directive `{name}")
            self._macros[name] = Macro(
                parameters=None if parameters is None else read_parameters(name, parameters),
                body=re.sub(r"\\[ \t]*\n", " ", body),
            )
        pieces.append("\n" * body.count("\n"))
        return found.end()

    def _use(self, name: str, text: str, end: int, depth: int) -> tuple[str, int]:
        """The expansion of a macro whose name ends at `end`, and where the text goes on."""
        macro = self._macros.get(name)
        if macro is None:
            raise Rejected(f"directive or undefined macro `{name}")
        if depth > MAX_MACRO_DEPTH:
            raise Rejected(f"macro {name} uses macros {MAX_MACRO_DEPTH} deep, or itself")
        body = macro.body
        if macro.parameters is not None:
            arguments, end = read_arguments(name, text, end)
            body = self._filled(name, macro, arguments)
        body = body.replace("``", "")  # pasted: what stands left and right of it is one word
        self._spend(len(body) + 1)
        pieces: list[str] = []
        position = 0
        for start, inner, inner_end in self._marks(body):
            if start < position:
                continue
            pieces.append(body[position:start])
            expanded, position = self._use(inner, body, inner_end, depth + 1)
            pieces.append(expanded)
        pieces.append(body[position:])
        expanded = "".join(pieces)
        self._spend(len(expanded))
        return expanded, end

    def _filled(self, name: str, macro: Macro, arguments: list[str]) -> str:
        """The body with arguments for parameters."""
        assert macro.parameters is not None
        if len(arguments) > max(1, len(macro.parameters)) or (not macro.parameters and arguments != [""]):
            raise Rejected(f"macro {name} takes {len(macro.parameters)} arguments, got {len(arguments)}")
        values: dict[str, str] = {}
        for index, (parameter, default) in enumerate(macro.parameters):
            given = arguments[index] if index < len(arguments) else None
            if not given and default is not None:
                given = default
            if given is None:
                raise Rejected(f"macro {name} takes {len(macro.parameters)} arguments, got {len(arguments)}")
            values[parameter] = given
        pieces: list[str] = []
        for found in BODY_PIECE.finditer(macro.body):
            piece = values.get(found.group(), found.group())
            self._spend(len(piece))
            pieces.append(piece)
        return "".join(pieces)

    def _spend(self, chars: int) -> None:
        self._room -= chars
        if self._room < 0:
            raise Rejected(f"the macros expand to more than {MAX_EXPANDED_CHARS} characters")


def read_parameters(name: str, text: str) -> tuple[tuple[str, str | None], ...]:
    parameters: list[tuple[str, str | None]] = []
    for one in text.split(",") if text.strip() else []:
        found = PARAMETER.fullmatch(one)
        if found is None:
            raise Rejected(f"macro {name} has a parameter list we do not read")
        parameters.append((found.group(1), None if found.group(2) is None else found.group(2).strip()))
    return tuple(parameters)


def read_arguments(name: str, text: str, end: int) -> tuple[list[str], int]:
    """The arguments between parentheses after a macro's name, and where the text goes on."""
    while end < len(text) and text[end] in " \t\n":
        end += 1
    if text[end : end + 1] != "(":
        raise Rejected(f"macro {name} is used without its arguments")
    arguments, piece, depth = [], "", 0
    for found in ARGUMENT_PIECE.finditer(text, end + 1):
        token = found.group()
        if depth == 0 and token in (",", ")"):
            arguments.append(piece.strip())
            piece = ""
            if token == ")":
                return arguments, found.end()
            continue
        depth += (token in ("(", "[", "{")) - (token in (")", "]", "}"))
        piece += token
    raise Rejected(f"macro {name} is used with arguments that do not end")
