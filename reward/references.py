"""References that come with the data, checked where it is read: before a run, so that file and line can be named."""

from collections.abc import Mapping
from typing import Any

from reward import composed, majority, similarity
from reward.errors import UnusableReference
from reward.instructions.reading import read as read_instructions
from reward.verifier import COMPOSED, known_verifiers

CHECKS = {
    "instructions": read_instructions,
    "majority": majority.check_options,
    "similarity": similarity.read_reference,
}


def check_reference(verifier: str, reference: Mapping[str, Any]) -> None:
    """Raises UnusableReference, one sentence, where a response could not be judged; most verifiers look only then."""
    if verifier not in known_verifiers():
        raise UnusableReference(f"there is no verifier {verifier!r}, only {', '.join(known_verifiers())}")
    if verifier == COMPOSED:
        for part in composed.read(reference).parts:
            try:
                check_reference(part.verifier, part.reference)
            except UnusableReference as error:
                raise UnusableReference(f"part {part.name}: {error}") from error
    elif verifier in CHECKS:
        CHECKS[verifier](reference)
