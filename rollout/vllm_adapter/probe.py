"""Proof that an engine draws with the weights it was sent: a forward pass comes to what the learner's came to.

The pass is one prefill of a fixed prompt, between the update and the first token that is drawn after it; the entropy of
the next token is compared. Bytes that arrived are a checksum's business; this catches weights that arrived and are not
used.
"""

from rollout.errors import WeightUpdateError
from rollout.messages import WeightUpdate

FIRST = -(2**31)  # vLLM runs the lowest priority number first


def check_probe(update: WeightUpdate, found: float, tolerance: float, worker: str) -> float:
    """|entropy of the engine, `found`, - of the learner| in nats. Raises WeightUpdateError above `tolerance`."""
    error = abs(found - update.probe.entropy)
    if not error <= tolerance:
        raise WeightUpdateError(
            f"{worker} took weights v{update.version} but does not draw with them: the entropy after the probe prompt"
            f" is {found:.6f} nats, the learner's is {update.probe.entropy:.6f} (tolerance {tolerance:g},"
            " rollout.probe_tolerance)"
        )
    return error
