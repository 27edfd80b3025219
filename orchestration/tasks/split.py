"""Who is held out: a stable hash of the prompt's text decides, before any seed is known.

So every run, machine and seed holds out the same prompts, and equal prompts are never on both sides. What the split
does *not* promise: two different texts may ask for the same thing ("a and b" and "b and a"), and parts of a held-out
prompt appear in training prompts.
"""

import hashlib

from orchestration.tasks.errors import TaskError

HASH_BYTES = 8  # 2**64 values: no collisions worth naming among millions of prompts


def fingerprint(text: str) -> str:
    """16 hex digits that depend on nothing but the text; surrounding white space does not count."""
    return hashlib.blake2b(text.strip().encode(), digest_size=HASH_BYTES).hexdigest()


def is_heldout(text: str, fraction: float) -> bool:
    """True for about `fraction` of all texts, always the same ones; a larger fraction keeps those of a smaller one."""
    return int(fingerprint(text), 16) < fraction * 2 ** (8 * HASH_BYTES)


def check_fraction(owner: str, fraction: float) -> None:
    """Raises TaskError unless both sides of the split get something."""
    if not 0.0 < fraction < 1.0:
        raise TaskError(
            f"{owner}.heldout_fraction is a fraction of the prompts strictly between 0 and 1, got {fraction}"
        )
