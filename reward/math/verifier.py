"""The verifier `math`: reference {"answer": text}. Reward 1 for an equal answer, 0 for another one.

A response without an answer is malformed; an answer too big to work on is a matter of resources, one that takes too
long a timeout: none of them is called wrong.
"""

import importlib.util
import time
from collections.abc import Sequence

from reward.cache import RecentlyUsed
from reward.children import Children
from reward.config import RewardConfig
from reward.errors import ToolError
from reward.math.bounds import out_of_bounds
from reward.math.extract import extract_answer, last_box
from reward.math.number import read_number, same_number
from reward.math.tidy import same_text, tidy
from reward.messages import Status, Verdict, VerifyRequest

TARGET = "reward.math.equivalence:judge"
SHOWN_CHARS = 60

Judged = tuple[Status, bool, str]  # status, equal, detail


class MathVerifier:
    """See `reward.verifier.Verifier`."""

    name = "math"

    def __init__(self, config: RewardConfig) -> None:
        self._children = Children(TARGET, config.child, config.deadline_s)
        self._judged: RecentlyUsed[Judged] = RecentlyUsed(config.cache_entries)

    @staticmethod
    def check(config: RewardConfig) -> None:
        """Raises ToolError where math-verify is missing."""
        check_library("math_verify", "math-verify")

    def pids(self) -> list[int]:
        return self._children.pids()

    def close(self) -> None:
        self._children.close()

    def verify(self, requests: Sequence[VerifyRequest]) -> list[Verdict]:
        return [self._verdict(request) for request in requests]

    def _verdict(self, request: VerifyRequest) -> Verdict:
        started = time.monotonic()
        reference = request.reference.get("answer")
        answer = extract_answer(request.response)
        if not isinstance(reference, str) or not reference.strip():
            status, equal, detail = Status.ERROR, False, "a math reference has an answer, as text"
        elif answer is None:
            status, equal, detail = Status.MALFORMED, False, "the response gives no answer"
        else:
            boxed = last_box(reference)
            status, equal, detail = self._compared(tidy(answer), tidy(reference if boxed is None else boxed))
        return Verdict(
            id=request.id,
            reward=float(equal),
            status=status,
            components={"answered": float(answer is not None)},
            detail=detail,
            seconds=time.monotonic() - started,
        )

    def _compared(self, answer: str, reference: str) -> Judged:
        quick = compare_quickly(answer, reference)
        if quick is not None:
            return Status.SCORED, quick, shown(answer, reference, quick)
        key = (answer, reference)
        judged = self._judged.get(key)
        if judged is None:
            judged = self._ask(answer, reference)
            if judged[0] in (Status.SCORED, Status.RESOURCE):
                self._judged.put(key, judged)
        return judged

    def _ask(self, answer: str, reference: str) -> Judged:
        too_big = out_of_bounds(answer)
        if too_big:
            return Status.RESOURCE, False, too_big
        said = self._children.ask({"answer": answer, "reference": reference})
        if "status" in said:
            return Status(said["status"]), False, said["detail"]
        return Status.SCORED, said["equal"], shown(answer, reference, said["equal"])


def compare_quickly(answer: str, reference: str) -> bool | None:
    """Equal texts, or two plain numbers; None where it takes more."""
    if same_text(answer, reference):
        return True
    expected = read_number(reference)
    if expected is None:
        return None
    given = read_number(answer)
    return None if given is None else same_number(given, expected)


def shown(answer: str, reference: str, equal: bool) -> str:
    return f"{answer[:SHOWN_CHARS]} {'equals' if equal else 'is not'} {reference[:SHOWN_CHARS]}"


def check_library(module: str, distribution: str) -> None:
    """Raises ToolError, one sentence, where a library is not installed."""
    if importlib.util.find_spec(module) is None:
        raise ToolError(f"{distribution} is not installed, and the verifier needs it: `pip install {distribution}`")
