"""What can go wrong where prompts come from.

TaskError            a source cannot give the task that was asked of it; the message is one sentence for a person
└── TaskDataError    a file or data set is absent, or one of its entries is malformed; names the file and the line
"""


class TaskError(Exception):
    """A task source cannot give the task that was asked of it."""


class TaskDataError(TaskError):
    """A file or data set is absent, or one of its entries is malformed."""
