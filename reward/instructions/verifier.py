"""The verifier `instructions`: reference {"constraints": [{"kind": "words", "at_most": 50}, ...]}, see kinds.py.

Rule    R = satisfied constraints / all constraints, on what follows `</think>`.
Source  the dense reward of Light-IF, arXiv:2508.03178 (fraction satisfied, A'-third); the kinds are IFEval's,
        arXiv:2311.07911, read in its published checkers, and some of ours.
Traps   an answer that says nothing satisfies "no commas" and "at most 50 words": an empty one, or reasoning without an
        end, is malformed and gets 0. Constraints judge form alone: compose them with a verifier that judges content.
"""

import time
from collections.abc import Sequence

from reward.child_verifier import check_library
from reward.config import RewardConfig
from reward.deadline import Deadline
from reward.errors import UnusableReference
from reward.instructions.answer import Answer
from reward.instructions.reading import read
from reward.messages import Status, Verdict, VerifyRequest
from reward.thinking import after_thinking


class InstructionsVerifier:
    """See `reward.verifier.Verifier`. Works in the calling thread: there is nothing to kill in it."""

    name = "instructions"

    def __init__(self, config: RewardConfig) -> None:
        self._deadline_s = config.deadline_s

    @staticmethod
    def check(config: RewardConfig) -> None:
        """Raises ToolError where RE2 is missing."""
        check_library("re2", "google-re2")

    def pids(self) -> list[int]:
        return []

    def close(self) -> None:
        pass

    def verify(self, requests: Sequence[VerifyRequest]) -> list[Verdict]:
        return [self._verdict(request) for request in requests]

    def _verdict(self, request: VerifyRequest) -> Verdict:
        started = time.monotonic()
        deadline = Deadline.after(self._deadline_s)

        def verdict(status: Status, detail: str, components: dict[str, float]) -> Verdict:
            share = sum(components.values()) / len(components) if components else 0.0
            whole = {"all": float(share == 1.0)} if components else {}
            seconds = time.monotonic() - started
            return Verdict(
                id=request.id,
                reward=share,
                status=status,
                components={**components, **whole},
                detail=detail,
                seconds=seconds,
            )

        try:
            constraints = read(request.reference)
        except UnusableReference as error:
            return verdict(Status.ERROR, str(error), {})
        text = after_thinking(request.response)
        if text is None or not text.strip():
            why = "the response is empty" if text is not None else "the reasoning has no end"
            return verdict(Status.MALFORMED, why, dict.fromkeys(constraints, 0.0))
        answer = Answer(request.response, text.strip())
        satisfied: dict[str, float] = {}
        for name, constraint in constraints.items():
            if deadline.passed:
                return verdict(Status.TIMEOUT, f"not judged within {self._deadline_s:g} s", {})
            satisfied[name] = float(constraint(answer))
        missed = [name for name, yes in satisfied.items() if not yes]
        detail = f"missed {', '.join(missed)}" if missed else "every constraint is satisfied"
        return verdict(Status.SCORED, detail, satisfied)
