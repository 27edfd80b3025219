"""The seam every verifier implements, and the registry: adding a verifier is one class and one line here.

The registry names classes by text, so that a process imports only what it judges with.
"""

import importlib
from collections.abc import Sequence
from typing import Protocol

from reward.config import RewardConfig
from reward.errors import RewardError
from reward.messages import Verdict, VerifyRequest

VERIFIERS = {
    "verilog": "reward.verilog.verifier:VerilogVerifier",
    "math": "reward.math.verifier:MathVerifier",
    "reasoning_gym": "reward.reasoning_gym:ReasoningGymVerifier",
    "instructions": "reward.instructions.verifier:InstructionsVerifier",
    "majority": "reward.majority:MajorityVerifier",
    "similarity": "reward.similarity:SimilarityVerifier",
}
# Each worker of these is a process of its own (reward/replica.py) instead of a thread: for a verifier that is busy in
# Python itself, or prepares a reference once for many responses.
PROCESSES = frozenset({"verilog"})
COMPOSED = "composed"  # no class: the pool takes such a request apart and puts the verdicts together


def known_verifiers() -> list[str]:
    """Every name a request may have as its `verifier`."""
    return sorted([*VERIFIERS, COMPOSED])


class Verifier(Protocol):
    """Judges batches of responses. Built with a RewardConfig; raises RewardError there where it cannot work."""

    name: str

    @staticmethod
    def check(config: RewardConfig) -> None:
        """Raises RewardError, one sentence, where the verifier cannot work on this machine."""

    def verify(self, requests: Sequence[VerifyRequest]) -> list[Verdict]:
        """One verdict per request, in their order. Never raises for a bad response or reference: those are verdicts.

        Called from `workers` threads at the same time, unless it is one of PROCESSES.
        """

    def pids(self) -> list[int]:
        """Processes at work now; killing one costs a retry and nothing else."""

    def close(self) -> None:
        """End all processes."""


def verifier_class(name: str) -> type[Verifier]:
    """The class registered under a name. Raises RewardError for an unknown one or a missing library."""
    target = VERIFIERS.get(name)
    if target is None:
        raise RewardError(f"unknown verifier {name}: there are {', '.join(known_verifiers())}")
    return load_class(name, target)


def load_class(name: str, target: str) -> type[Verifier]:
    """The class at MODULE:CLASS. Raises RewardError where a library is missing."""
    module, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise RewardError(
            f"verifier {name} cannot be loaded ({error}): install Temper with its dependencies"
        ) from error
