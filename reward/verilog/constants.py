"""Numbers that a reference compares with or counts to: inputs of just these values are where its rare cases lie."""

import re

from reward.verilog.design import Design

MAX_CONSTANTS = 32  # of one design: the first ones written
MAX_BITS = 128
DIGITS = {"b": 2, "o": 8, "d": 10, "h": 16}
LITERAL = re.compile(r"(?:\d+\s*)?'\s*[sS]?([bodhBODH])\s*([0-9a-fA-F_]+)\b|(?<![\w'.$])(\d[\d_]*)\b")


def constants_of(design: Design) -> tuple[int, ...]:
    """The integer literals in the source of a design and their neighbours, each once; literals with x or z are none."""
    found: dict[int, None] = {}
    for base, digits, plain in LITERAL.findall(design.text):
        try:
            value = int((digits or plain).replace("_", ""), DIGITS[base.lower()] if base else 10)
        except ValueError:  # a digit its base does not have
            continue
        if value.bit_length() <= MAX_BITS:
            found.update(dict.fromkeys(near for near in (value, value - 1, value + 1) if near >= 0))
        if len(found) >= 3 * MAX_CONSTANTS:
            break
    return tuple(found)
