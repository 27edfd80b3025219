"""What verifiers that run Python libraries on a response share: their workers, their start, a deadline per response."""

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from reward.children import Children
from reward.config import RewardConfig
from reward.deadline import Deadline
from reward.errors import ToolError
from reward.messages import Verdict, VerifyRequest
from reward.sandbox import Sandbox


class ChildVerifier(ABC):
    """See `reward.verifier.Verifier`. A subclass names what its workers run and turns a request into a verdict.

    library    module and distribution that must be installed
    target     MODULE:FUNCTION that workers run
    example    a payload for it, judged once before the first worker is forked
    """

    name: str
    library: ClassVar[tuple[str, str]]
    target: ClassVar[str]
    example: ClassVar[dict[str, Any]]

    def __init__(self, config: RewardConfig) -> None:
        self._deadline_s = config.deadline_s
        self._children = Children(self.target, config, self.example)

    @classmethod
    def check(cls, config: RewardConfig) -> None:
        """Raises ToolError where the library is missing, SandboxError where workers cannot be isolated."""
        check_library(*cls.library)
        Sandbox(config.sandbox)

    def verify(self, requests: Sequence[VerifyRequest]) -> list[Verdict]:
        return [self._on_time(request) for request in requests]

    def _on_time(self, request: VerifyRequest) -> Verdict:
        self._children.warm()  # before the clock starts: importing a library is no fault of a response
        return self._verdict(request, Deadline.after(self._deadline_s))

    @abstractmethod
    def _verdict(self, request: VerifyRequest, deadline: Deadline) -> Verdict:
        """The judgement, by asking `_children` where it takes a library."""

    def pids(self) -> list[int]:
        return self._children.pids()

    def close(self) -> None:
        self._children.close()


def check_library(module: str, distribution: str) -> None:
    """Raises ToolError, one sentence, where a library is not installed."""
    if importlib.util.find_spec(module) is None:
        raise ToolError(f"{distribution} is not installed, and the verifier needs it: `pip install {distribution}`")
