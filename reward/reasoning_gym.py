r"""The verifier `reasoning_gym`: reference {"dataset": name, "entry": an entry of that dataset}.

The dataset's own `score_answer` judges, in a worker process that can be killed: some of them run a solver, or Python.
The answer is the last <answer>..</answer>, the last \boxed{..}, or the last line, after `</think>`.
"""

import time

from reward.child_verifier import ChildVerifier
from reward.deadline import Deadline
from reward.math.extract import last_box
from reward.messages import Status, Verdict, VerifyRequest
from reward.thinking import after_thinking

TAG, TAG_END = "<answer>", "</answer>"


class ReasoningGymVerifier(ChildVerifier):
    """See `reward.verifier.Verifier`."""

    name = "reasoning_gym"
    library = ("reasoning_gym", "reasoning_gym")
    target = "reward.reasoning_gym_child:judge"
    example = {"dataset": "leg_counting", "entry": {"question": "", "answer": "4", "metadata": {}}, "answer": "4"}

    def _verdict(self, request: VerifyRequest, deadline: Deadline) -> Verdict:
        started = time.monotonic()
        dataset, entry = request.reference.get("dataset"), request.reference.get("entry")
        answer = extract_line(request.response)
        if not isinstance(dataset, str) or not isinstance(entry, dict):
            said = {"status": "error", "detail": "a reasoning_gym reference has dataset (text) and entry (an object)"}
        elif answer is None:
            said = {"status": "malformed", "detail": "the response gives no answer"}
        else:
            said = self._children.ask({"dataset": dataset, "entry": entry, "answer": answer}, deadline)
        return Verdict(
            id=request.id,
            reward=said.get("score", 0.0),
            status=Status(said.get("status", Status.SCORED.value)),
            components={"answered": float(answer is not None)},
            detail=said.get("detail", ""),
            seconds=time.monotonic() - started,
        )


def extract_line(response: str) -> str | None:
    """The answer as written, or None for an empty response and for reasoning that never ends."""
    text = after_thinking(response)
    if text is None:
        return None
    if TAG in text:
        return text.rpartition(TAG)[2].partition(TAG_END)[0].strip() or None
    boxed = last_box(text)
    if boxed is not None:
        return boxed.strip() or None
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), None)
