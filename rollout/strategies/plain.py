"""No strategy: every response is drawn by the policy from its first token to its last."""

from dataclasses import dataclass
from typing import ClassVar

from rollout.strategies.strategy import Circumstances, Resources, RolloutSource


@dataclass(frozen=True, kw_only=True)
class Plain:
    """The engine as it is.

    Rule    none.
    Source  ours.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    def check(self, run: Circumstances) -> None:
        pass

    def check_files(self) -> None:
        pass

    def over(self, resources: Resources) -> RolloutSource:
        return resources.policy
