"""What can go wrong before there is a policy.

ModelError    the model of the configuration cannot be had; the message is one sentence for a person
"""

from orchestration.errors import OrchestrationError


class ModelError(OrchestrationError):
    """The model of the configuration cannot be had."""
