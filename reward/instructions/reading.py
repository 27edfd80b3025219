"""A reference becomes constraints; what is wrong with it is one sentence that names the constraint and the field.

{"constraints": [{"kind": "words", "at_most": 50}, {"kind": "no_commas"}]}
{"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}               IFEval's own form, see ifeval.py
"""

import dataclasses
import difflib
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any

import pydantic

from reward.errors import UnusableReference
from reward.instructions.constraint import Constraint
from reward.instructions.ifeval import from_ifeval
from reward.instructions.kinds import KINDS

MAX_CONSTRAINTS = 100
KIND = "kind"


def read(reference: Mapping[str, Any]) -> dict[str, Constraint]:
    """name -> constraint, in order; the name is the kind, with a number where a kind comes again.

    Raises UnusableReference.
    """
    listed = reference.get("constraints")
    if "instruction_id_list" in reference:
        listed = from_ifeval(reference["instruction_id_list"], reference.get("kwargs"))
    if not isinstance(listed, list) or not 1 <= len(listed) <= MAX_CONSTRAINTS:
        raise UnusableReference(
            'an instructions reference is {"constraints": [{"kind": ...}, ...]} with 1 to'
            f" {MAX_CONSTRAINTS} constraints, got {short(listed)}"
        )
    constraints: dict[str, Constraint] = {}
    seen: dict[str, int] = {}
    for number, fields in enumerate(listed, start=1):
        constraint = build(fields, f"constraint {number}")
        kind = fields[KIND]
        seen[kind] = seen.get(kind, 0) + 1
        constraints[kind if seen[kind] == 1 else f"{kind}_{seen[kind]}"] = constraint
    return constraints


def build(fields: Any, place: str) -> Constraint:
    """One constraint of its plain fields. Raises UnusableReference."""
    if not isinstance(fields, Mapping) or not isinstance(fields.get(KIND), str):
        raise UnusableReference(f'{place}: expected {{"kind": name, ...}}, got {short(fields)}')
    kind = fields[KIND]
    place = f"{place} ({kind})"
    if kind not in KINDS:
        close = difflib.get_close_matches(kind, KINDS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(KINDS)}"
        raise UnusableReference(f"{place}: there is no such kind; {hint}")
    known = checks(KINDS[kind])
    for key, value in fields.items():
        if key == KIND:
            continue
        if key not in known:
            raise UnusableReference(f"{place}: unknown field {key!r}, it has {', '.join(known) or 'none'}")
        try:
            known[key].validate_python(value, strict=True)
        except pydantic.ValidationError as error:
            problem = error.errors()[0]["msg"]
            raise UnusableReference(
                f"{place}: {key}: {problem[:1].lower()}{problem[1:]}, got {short(value)}"
            ) from error
    given = {key: value for key, value in fields.items() if key != KIND}
    try:
        return KINDS[kind](**given)
    except TypeError as error:  # a required field is not there
        absent = [
            item.name
            for item in dataclasses.fields(KINDS[kind])
            if item.name not in given
            and item.default is dataclasses.MISSING
            and item.default_factory is dataclasses.MISSING
        ]
        raise UnusableReference(f"{place}: needs {', '.join(absent)}") from error
    except ValueError as error:
        raise UnusableReference(f"{place}: {error}") from error


@cache
def checks(cls: type[Constraint]) -> dict[str, pydantic.TypeAdapter]:
    """field -> what checks its type."""
    return {name: pydantic.TypeAdapter(hint) for name, hint in typing.get_type_hints(cls).items()}


def short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
