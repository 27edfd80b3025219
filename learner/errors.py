"""Errors of the learner service.

LearnerError
├── ModelError       the model folder cannot be trained from (missing files, a head we cannot evaluate)
├── BatchError       a train batch that does not fit the learner's state
├── DivergedError    a loss or gradient norm that is not a finite number
├── MismatchError    learner and engine disagree about the probabilities of what was sampled
└── CheckpointError  a checkpoint that is missing, incomplete or made for another set-up
"""


class LearnerError(RuntimeError):
    """Base of all errors raised by the learner service."""


class ModelError(LearnerError):
    """The model folder cannot be trained from; the message names the path and what is wrong with it."""


class BatchError(LearnerError):
    """A train batch that does not fit the learner's state, such as one that starts from another version."""


class DivergedError(LearnerError):
    """A loss or gradient norm is not finite; the weights of the step are lost, the last checkpoint is good."""


class MismatchError(LearnerError):
    """Learner and engine disagree about the probabilities of what was sampled, by more than the configured limit."""


class CheckpointError(LearnerError):
    """A checkpoint that is missing, incomplete or made for another set-up."""
