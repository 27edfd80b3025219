"""Proof that an engine draws with the weights it was sent: the bytes match the checksum, a forward pass matches the
learner's.

The forward pass is one token after a fixed prompt; its recorded entropy is compared with the learner's. It rides along
with the requests in flight and costs one short prefill.
"""

import xxhash

from rollout.draw.temperature import Fixed
from rollout.errors import WeightUpdateError
from rollout.messages import GroupRequest, Rollout, WeightUpdate

FIRST = -(2**31)  # vLLM runs the lowest priority number first


def check_checksum(update: WeightUpdate) -> None:
    """Raise WeightUpdateError unless the payload's xxh3_128 is the update's checksum."""
    found = xxhash.xxh3_128_hexdigest(update.payload)
    if found != update.checksum:
        raise WeightUpdateError(
            f"weights v{update.version} arrived damaged: checksum {found}, the learner sent {update.checksum}"
        )


def probe_request(update: WeightUpdate, priority: int) -> GroupRequest:
    """One token after the probe prompt, at T = 1."""
    return GroupRequest(
        group_id=f"probe-v{update.version}",
        prompt_ids=update.probe.prompt_ids,
        n=1,
        max_tokens=1,
        temperature=Fixed(temperature=1.0),
        priority=priority,
    )


def check_probe(update: WeightUpdate, rollout: Rollout, tolerance: float, worker: str) -> float:
    """|entropy of the engine - of the learner| in nats. Raises WeightUpdateError above `tolerance`."""
    found = float(rollout.entropies[0])
    error = abs(found - update.probe.entropy)
    if not error <= tolerance:
        raise WeightUpdateError(
            f"{worker} took weights v{update.version} but does not draw with them: the entropy after the probe prompt"
            f" is {found:.6f} nats, the learner's is {update.probe.entropy:.6f} (tolerance {tolerance:g},"
            " rollout.probe_tolerance)"
        )
    return error
