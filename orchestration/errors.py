"""Errors of the orchestration package.

OrchestrationError
├── ConfigError       the configuration asks for something impossible
├── TaskError         a task source cannot give what was asked of it (orchestration/tasks/errors.py)
├── ModelError        the model of the configuration cannot be had (orchestration/models/errors.py)
├── StallError        somebody was waited for longer than the deadline allows
├── WorkerFailure     an actor died or failed
├── SchedulerError    an event contradicts what the scheduler knows, or retries are used up
├── CheckpointError   a checkpoint cannot be written or read
├── CaseError         a file of responses to judge holds something else
├── LaunchError      a job cannot be handed to its cluster
├── ServeError        the verifier service cannot listen where it was told to, or does not start
└── JournalError      the journal cannot be opened, or what it is told contradicts what it holds
"""


class OrchestrationError(RuntimeError):
    """Base of all errors raised by the orchestration package."""


class ConfigError(OrchestrationError):
    """The configuration asks for something impossible; the message names the key, the value and what to write."""


class StallError(OrchestrationError):
    """Somebody was waited for longer than the deadline allows; the message says who waited for whom, and how long."""


class WorkerFailure(OrchestrationError):
    """An actor died or failed; the message says which and why. `died` tells whether its process is gone."""

    def __init__(self, message: str, *, worker: str, died: bool) -> None:
        super().__init__(message)
        self.worker = worker
        self.died = died


class SchedulerError(OrchestrationError):
    """An event contradicts what the scheduler knows, or a group has used up its retries."""


class CheckpointError(OrchestrationError):
    """A checkpoint cannot be written or read; the message says which earlier one is intact."""


class JournalError(OrchestrationError):
    """The journal cannot be opened, or what it is told contradicts what it holds."""


class CaseError(OrchestrationError):
    """A file of responses to judge holds something else; the message names the line and what is wrong with it."""


class ServeError(OrchestrationError):
    """The verifier service cannot listen where it was told to, or does not start; the message says what to change."""


class LaunchError(OrchestrationError):
    """A job cannot be handed to its cluster; the message says what to start or to look at."""
