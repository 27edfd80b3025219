"""The policy before it was trained, without a second model in memory: the same one with its adapter switched off."""

from typing import TYPE_CHECKING

from torch import Tensor

from learner.adapters.adapter import switched_off

if TYPE_CHECKING:
    from learner.batch import MicroBatch
    from learner.forward import Policy
    from learner.head import ReferenceHead, TokenHead


class Unadapted:
    """Answers as a `Policy` of the model folder would, bit for bit; nothing here takes a gradient."""

    def __init__(self, policy: "Policy") -> None:
        self._policy = policy

    @property
    def head(self) -> "TokenHead":
        return self._policy.head

    def __call__(self, micro: "MicroBatch") -> tuple[Tensor, ...]:
        with switched_off(self._policy.model):
            return self._policy(micro)

    def as_reference(self, micro: "MicroBatch") -> "ReferenceHead":
        with switched_off(self._policy.model):
            return self._policy.as_reference(micro)

    def hidden_states(self, micro: "MicroBatch") -> Tensor:
        with switched_off(self._policy.model):
            return self._policy.hidden_states(micro)
