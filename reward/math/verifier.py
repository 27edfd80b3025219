r"""The verifier `math`: reference {"answer": text}. Reward 1 for an equal answer, 0 for another one.

MALFORMED   (reward 0, trainable) no answer; one too long to be read; one that is not worked out, such as 9^{9^{9}} or
            10^{100000}. The reference is within the bounds, so an equal answer of its size exists: who writes a bomb
            instead of a number takes the 0 of a wrong answer, and does not buy itself out of a group with it.
TIMEOUT, RESOURCE   the worker process was killed: says nothing about the response. Our own reader bounds its work
            before it does it; only a reference outside its language (sums, integrals: math-verify) can lead here, and
            only one that is slow by itself: beside a quick one, a slow answer is MALFORMED.
ERROR       the reference is no text, or cannot be worked out.

{"answer": text, "form": ...}:
    auto     the default. A reference that is a number asks for a number: 56 is not answered by 7 \times 8, nor 25 by
             100/4, which repeat the question and teach nothing. (PRM800K's grader has this rule for whole numbers;
             math-verify accepts both.) A decimal is also answered by 2\sqrt{2} or \pi, which have no other form.
    number   a number is asked for, whatever the reference is
    any      every expression of equal value is accepted
"""

import functools
import time
from typing import NamedTuple

from reward.cache import RecentlyUsed
from reward.child_verifier import ChildVerifier
from reward.config import RewardConfig
from reward.deadline import Deadline
from reward.math.bounds import too_long
from reward.math.extract import extract_answer, last_box
from reward.math.forms import ANY_FORM, AUTO_FORM, FORMS, NUMBER_FORM
from reward.math.number import Number, read_number, same_number
from reward.math.tidy import same_text, tidy
from reward.messages import Status, Verdict, VerifyRequest

SHOWN_CHARS = 60
LIBRARY_SHARE = 0.2  # of the deadline, for the reference and again for the answer: it passes after both
REFERENCES = 4096  # prepared ones remembered: the responses to one task follow each other

Judged = tuple[Status, bool, str]  # status, equal, detail


class MathVerifier(ChildVerifier):
    """See `reward.verifier.Verifier`."""

    name = "math"
    library = ("math_verify", "math-verify")
    target = "reward.math.equivalence:judge"
    example = {"answer": "2x", "reference": r"\sum_{k=1}^{2} x"}  # math-verify builds its parser on first use

    def __init__(self, config: RewardConfig) -> None:
        super().__init__(config)
        self._judged: RecentlyUsed[Judged] = RecentlyUsed(config.cache_entries)

    def _verdict(self, request: VerifyRequest, deadline: Deadline) -> Verdict:
        started = time.monotonic()
        reference = request.reference.get("answer")
        answer = extract_answer(request.response)
        if not isinstance(reference, str) or not reference.strip():
            status, equal, detail = Status.ERROR, False, "a math reference has an answer, as text"
        elif request.reference.get("form", AUTO_FORM) not in FORMS:
            status, equal, detail = Status.ERROR, False, f"the form of a math reference is one of {', '.join(FORMS)}"
        elif too_long(reference):
            status, equal, detail = Status.ERROR, False, f"of the reference: {too_long(reference)}"
        elif answer is None:
            status, equal, detail = Status.MALFORMED, False, "the response gives no answer"
        else:
            form = request.reference.get("form", AUTO_FORM)
            status, equal, detail = self._compared(answer, expected(reference), form, deadline)
        return Verdict(
            id=request.id,
            reward=float(equal),
            status=status,
            components={"answered": float(answer is not None)},
            detail=detail,
            seconds=time.monotonic() - started,
        )

    def _compared(self, answer: str, reference: "Expected", form: str, deadline: Deadline) -> Judged:
        bomb = too_long(answer)
        if bomb:
            return Status.MALFORMED, False, bomb
        answer = tidy(answer)
        quick = compare_quickly(answer, reference, form)
        if quick is not None:
            return Status.SCORED, quick, shown(answer, reference.text, quick)
        key = (answer, reference.text, form)
        judged = self._judged.get(key)
        if judged is None:
            judged = self._ask(answer, reference.text, form, deadline)
            if judged[0] in (Status.SCORED, Status.MALFORMED):
                self._judged.put(key, judged)
        return judged

    def _ask(self, answer: str, reference: str, form: str, deadline: Deadline) -> Judged:
        payload = {"answer": answer, "reference": reference, "form": form, "cpu_s": self._deadline_s * LIBRARY_SHARE}
        said = self._children.ask(payload, deadline)
        if "status" in said:
            return Status(said["status"]), False, said["detail"]
        return Status.SCORED, said["equal"], shown(answer, reference, said["equal"])


class Expected(NamedTuple):
    """A reference as it is compared: tidy, and as a number where it is one."""

    text: str
    number: Number | None


@functools.lru_cache(REFERENCES)
def expected(reference: str) -> Expected:
    boxed = last_box(reference)
    text = tidy(reference if boxed is None else boxed)
    return Expected(text, read_number(text))


def compare_quickly(answer: str, reference: Expected, form: str = AUTO_FORM) -> bool | None:
    """Equal texts, or two plain numbers; None where it takes more."""
    same = same_text(answer, reference.text)
    if same and form != NUMBER_FORM:
        return True
    given = None if reference.number is None else read_number(answer)
    if given is None or reference.number is None:
        return None
    return same or (same_number(given, reference.number) and (given.worked_out or form == ANY_FORM))


def shown(answer: str, reference: str, equal: bool) -> str:
    return f"{answer[:SHOWN_CHARS]} {'equals' if equal else 'is not'} {reference[:SHOWN_CHARS]}"
