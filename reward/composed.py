"""The verifier `composed`: several verifiers judge one response, and their rewards are added by weight.

reference {"parts": {name: {"verifier": ..., "weight": 0.9, "reference": {...}}, ...}, "gate": name (optional)}

    request --expand--> one request per part --(each its verifier)--> verdicts --combine--> one verdict

Rule    R = sum(w_k R_k) / sum(w_k), weights at least 0 and not all 0; a part of weight 0 is only reported.
        `gate`: where that part is not full, the others count 0.
Status  error, resource or timeout (in this order) where a part is; else malformed where a part is; else scored.
Source  ours.

Pure functions: the pool calls both, so that every part waits in the lane of its own verifier.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reward.errors import UnusableReference
from reward.messages import Status, Verdict, VerifyRequest
from reward.verifier import COMPOSED, VERIFIERS

WORST_FIRST = (Status.ERROR, Status.RESOURCE, Status.TIMEOUT, Status.MALFORMED)
SEPARATOR = "/"
MAX_WEIGHT = 1e6  # keeps sums finite


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    name: str
    verifier: str
    weight: float
    reference: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A composed reference, read. `gate` names a part, or is None."""

    parts: tuple[Part, ...]
    gate: str | None


def expand(request: VerifyRequest) -> list[VerifyRequest]:
    """One request per part, in order. Raises UnusableReference, one sentence, for a reference that is wrong.

    A group stays together part by part: two parts may ask the same verifier.
    """
    return [
        VerifyRequest(
            id=f"{request.id}{SEPARATOR}{part.name}",
            verifier=part.verifier,
            response=request.response,
            reference=part.reference,
            group=None if request.group is None else f"{request.group}{SEPARATOR}{part.name}",
        )
        for part in read(request.reference).parts
    ]


def combine(request: VerifyRequest, verdicts: Sequence[Verdict]) -> Verdict:
    """The verdicts on `expand(request)`, in their order, as one."""
    recipe = read(request.reference)
    judged = dict(zip((part.name for part in recipe.parts), verdicts, strict=True))
    status = next((one for one in WORST_FIRST if any(v.status is one for v in verdicts)), Status.SCORED)
    components: dict[str, float] = {}
    for name, verdict in judged.items():
        components[name] = verdict.reward
        components.update({f"{name}{SEPARATOR}{key}": value for key, value in verdict.components.items()})
    shut = recipe.gate is not None and judged[recipe.gate].reward < 1.0
    counted = [part for part in recipe.parts if not shut or part.name == recipe.gate]
    total = sum(part.weight for part in recipe.parts)
    reward = sum(part.weight * judged[part.name].reward for part in counted) / total
    combined = Verdict(
        id=request.id,
        reward=min(1.0, reward),  # a sum of rounded weights may come out above
        status=status,
        components=components,
        detail="; ".join(f"{name}: {verdict.detail}" for name, verdict in judged.items()),
        seconds=sum(verdict.seconds for verdict in verdicts),
    )
    return combined if combined.trainable else dataclasses.replace(combined, reward=0.0)


def read(reference: Mapping[str, Any]) -> Recipe:
    """Raises UnusableReference."""
    parts = reference.get("parts")
    if not isinstance(parts, Mapping) or not parts:
        raise UnusableReference(
            'a composed reference is {"parts": {name: {"verifier": ..., "weight": ..., "reference": {...}}}}'
        )
    unknown = sorted(set(reference) - {"parts", "gate"})
    if unknown:
        raise UnusableReference(f"a composed reference has parts and gate, got also {', '.join(unknown)}")
    recipe = Recipe(parts=tuple(read_part(name, fields) for name, fields in parts.items()), gate=reference.get("gate"))
    if recipe.gate is not None and not any(part.name == recipe.gate for part in recipe.parts):
        raise UnusableReference(f"the gate {recipe.gate!r} is none of the parts {', '.join(parts)}")
    if sum(part.weight for part in recipe.parts) <= 0.0:
        raise UnusableReference("the weights of a composed reference are all 0: one of them is above")
    return recipe


def read_part(name: Any, fields: Any) -> Part:
    if not isinstance(name, str) or not name or SEPARATOR in name:
        raise UnusableReference(f"the name of a part is a text without {SEPARATOR}, got {name!r}")
    if not isinstance(fields, Mapping) or set(fields) != {"verifier", "weight", "reference"}:
        got = ", ".join(map(str, fields)) if isinstance(fields, Mapping) else repr(fields)
        raise UnusableReference(f"part {name} has verifier, weight and reference, got {got}")
    verifier, weight, reference = fields["verifier"], fields["weight"], fields["reference"]
    if verifier == COMPOSED:
        raise UnusableReference(f"part {name} is composed itself: write its parts beside the others")
    if verifier not in VERIFIERS:
        raise UnusableReference(f"part {name}: unknown verifier {verifier!r}, there are {', '.join(sorted(VERIFIERS))}")
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0.0 <= weight <= MAX_WEIGHT:
        raise UnusableReference(f"part {name}: weight is a number from 0 to {MAX_WEIGHT:g}, got {weight!r}")
    if not isinstance(reference, Mapping):
        raise UnusableReference(f"part {name}: reference is an object, got {reference!r}")
    return Part(name=name, verifier=verifier, weight=float(weight), reference=reference)
