"""How a learned temperature head is trained: the same algebra over its recorded actions instead of the tokens."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from learner.objective.surrogate import Clipped
from learner.objective.weights import TruncatedImportance
from rollout.draw.learned import Learned


@dataclass(frozen=True, kw_only=True)
class HeadTraining:
    """The head's half of a coordinate ascent: its actions share the advantage of the tokens they were taken for.

    Rule    L = aggregate(w * C(lp_phi, lp_phi_old, A)), lp_phi = log P(c) + c log Beta(z; a, b) of the recorded action;
            advantage, filters and aggregate are the objective's, surrogate and weights the head's own.
    Source  IntroLLM, arXiv:2602.13035, grade A'-third; lr, one step a batch and AdamW are ours.
    Units   lr: of AdamW without decay.  max_grad_norm: L2 norm of the head's gradient.
    Traps   `policy` must be the one the responses were drawn with: its bounds turn a temperature back into an action.
    """

    policy: Learned
    lr: float = 1e-3
    max_grad_norm: float = 1.0
    surrogate: Any = field(default_factory=Clipped)
    weights: Mapping[str, Any] = field(default_factory=lambda: {"mismatch": TruncatedImportance()})

    def __post_init__(self) -> None:
        if not isinstance(self.policy, Learned):
            raise ValueError(
                f"HeadTraining.policy is the run's learned temperature, got {type(self.policy).__name__}: choose"
                " temperature=learned"
            )
        for name in ("lr", "max_grad_norm"):
            if not getattr(self, name) > 0.0:
                raise ValueError(f"HeadTraining.{name} is positive, got {getattr(self, name)}")

    def objective(self, tokens: Any) -> Any:
        """The `Objective` of the head's phase, made of the one of the tokens' phase."""
        return dataclasses.replace(
            tokens,
            surrogate=self.surrogate,
            weights=self.weights,
            credit={},
            select={},
            regularisers={},
            controllers={},
            head=None,
        )
