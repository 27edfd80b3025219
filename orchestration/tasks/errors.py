"""What can go wrong where prompts come from.

TaskError            a source cannot give the task that was asked of it; the message is one sentence for a person
└── TaskDataError    a file or data set is absent, or one of its entries is malformed; names the file and the line
"""

from orchestration.errors import OrchestrationError


class TaskError(OrchestrationError):
    """A task source cannot give the task that was asked of it."""


class TaskDataError(TaskError):
    """A file or data set is absent, or one of its entries is malformed."""
