"""Errors of the reward service: faults of ours or of the set-up, never of a response.

RewardError
├── ToolError          a program or package that a verifier needs is missing or does not work
├── SandboxError       the isolation asked for is not available on this machine
├── NoRoom             too many responses wait already; the caller asked not to wait
└── UnusableReference  a reference cannot be used to judge anything (becomes a verdict with status `error`)
"""


class RewardError(RuntimeError):
    """Base of all errors raised by the reward service."""


class ToolError(RewardError):
    """A program or package that a verifier needs is missing or does not work; the message says how to get it."""


class SandboxError(RewardError):
    """The isolation asked for is not available; the message says what to install or which setting gives it up."""


class NoRoom(RewardError):
    """Too many responses wait for a verifier already; the same call may work a moment later."""


class UnusableReference(RewardError):
    """A reference cannot judge anything; the message says what is wrong with it."""
