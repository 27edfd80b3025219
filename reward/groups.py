"""Verifiers that compare responses with each other: which they are, and how they find the responses of a group."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from reward.messages import VerifyRequest
from reward.verifier import COMPOSED

WITHIN_TASK = frozenset({"majority"})  # of several responses to one prompt
ACROSS_TASKS = frozenset({"similarity"})  # of responses to several prompts


def asked(verifier: str, reference: Mapping[str, Any]) -> set[str]:
    """The verifiers that judge a request: itself, or the parts of a composed one as far as they can be read."""
    if verifier != COMPOSED:
        return {verifier}
    parts = reference.get("parts")
    found = parts.values() if isinstance(parts, Mapping) else ()
    return {part["verifier"] for part in found if isinstance(part, Mapping) and isinstance(part.get("verifier"), str)}


def members(requests: Sequence[VerifyRequest]) -> Iterator[list[int]]:
    """The positions of every group's requests, in order; a request without a group is one of its own."""
    groups: dict[object, list[int]] = {}
    for position, request in enumerate(requests):
        groups.setdefault(position if request.group is None else (request.group,), []).append(position)
    yield from groups.values()
