"""Errors of the rollout service.

RolloutError
├── RequestError        the request cannot be run (prompt too long, unknown temperature policy)
├── DeadlineError       a group took longer than it may
├── EngineLostError     the engine's process or thread is gone, or does not move: only a new worker helps
├── WeightUpdateError   an engine did not take the weights it was sent
└── SelfCheckError      the engine's record of a draw disagrees with the learner's model
"""


class RolloutError(RuntimeError):
    """Base of all errors raised by the rollout service."""


class RequestError(RolloutError):
    """The request cannot be run; the message says why and what to change."""


class DeadlineError(RolloutError):
    """A group took longer than rollout.request_deadline_s; what it had is dropped."""


class EngineLostError(RolloutError):
    """The engine's process or thread is gone, or does not move: only a new worker helps."""


class WeightUpdateError(RolloutError):
    """An engine did not take the weights it was sent."""


class SelfCheckError(RolloutError):
    """The engine's record of a draw disagrees with the learner's model."""
