r"""The verifier `reasoning_gym`: reference {"dataset": name, "entry": an entry of that dataset}.

The dataset's own `score_answer` judges, in a worker process that can be killed: some of them run a solver, or Python.
The answer is the last <answer>..</answer>, the last \boxed{..}, or the last line, after `</think>`.
"""

import re
import time
from collections.abc import Sequence

from reward.children import Children
from reward.config import RewardConfig
from reward.math.extract import THINK_END, last_box
from reward.math.verifier import check_library
from reward.messages import Status, Verdict, VerifyRequest

TARGET = "reward.reasoning_gym_child:judge"
TAGGED = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.DOTALL)


class ReasoningGymVerifier:
    """See `reward.verifier.Verifier`."""

    name = "reasoning_gym"

    def __init__(self, config: RewardConfig) -> None:
        self._children = Children(TARGET, config.child, config.deadline_s)

    @staticmethod
    def check(config: RewardConfig) -> None:
        """Raises ToolError where reasoning_gym is missing."""
        check_library("reasoning_gym", "reasoning_gym")

    def pids(self) -> list[int]:
        return self._children.pids()

    def close(self) -> None:
        self._children.close()

    def verify(self, requests: Sequence[VerifyRequest]) -> list[Verdict]:
        return [self._verdict(request) for request in requests]

    def _verdict(self, request: VerifyRequest) -> Verdict:
        started = time.monotonic()
        dataset, entry = request.reference.get("dataset"), request.reference.get("entry")
        answer = extract_line(request.response)
        if not isinstance(dataset, str) or not isinstance(entry, dict):
            said = {"status": "error", "detail": "a reasoning_gym reference has dataset (text) and entry (an object)"}
        elif answer is None:
            said = {"status": "malformed", "detail": "the response gives no answer"}
        else:
            said = self._children.ask({"dataset": dataset, "entry": entry, "answer": answer})
        return Verdict(
            id=request.id,
            reward=said.get("score", 0.0),
            status=Status(said.get("status", Status.SCORED.value)),
            components={"answered": float(answer is not None)},
            detail=said.get("detail", ""),
            seconds=time.monotonic() - started,
        )


def extract_line(response: str) -> str | None:
    """The answer as written, or None for an empty response."""
    text = response.rpartition(THINK_END)[2]
    tagged = TAGGED.findall(text)
    if tagged:
        return tagged[-1].strip() or None
    boxed = last_box(text)
    if boxed is not None:
        return boxed.strip() or None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else None
