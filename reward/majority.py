r"""The verifier `majority`: no label is needed; the responses of a group vote, and who agrees with the winner gets 1.

reference {}, or {"answer_kind": "math" | "text", "leave_one_out": bool, "answer": the label, for the logs only}

    responses --extract--> answers --equal ones together--> classes --most votes--> label --> 1 for its class, else 0

Rule    R_i = 1[answer_i equals the label]. The label is the class with most votes; of classes with equally many, the
        one that appears first. `leave_one_out`: i's own vote does not count for i, so no response elects itself.
        Responses without an answer get 0 (malformed) and no class.
Source  TTRL; SPINE, arXiv:2511.17938 (A'-third: rule, unparseable answers, leave-one-out; the tie rule is ours).
        Equality of answers is that of the verifier `math`; `text`: equal but for case and spaces.
Traps   the reward is agreement, not truth: a policy that always gives one answer gets 1 everywhere. Watch
        `label_right`, and pass@1 on labelled held-out tasks. Where all answers differ the first one wins with one
        vote (`leave_one_out`: nobody does).
"""

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reward.config import RewardConfig
from reward.deadline import Deadline
from reward.errors import UnusableReference
from reward.groups import members
from reward.math.bounds import too_long
from reward.math.extract import extract_answer, last_box
from reward.math.number import read_number, same_number
from reward.math.tidy import same_text, tidy
from reward.math.verifier import MathVerifier
from reward.messages import Status, Verdict, VerifyRequest
from reward.reasoning_gym import extract_line

# A group's comparisons may take this share of the deadline in all, and one alone what is then left.
SYMBOLIC_SHARE = 0.75
LEAST_VOTERS = 2
OPTIONS = {"answer_kind": str, "leave_one_out": bool, "answer": str}
KINDS = ("math", "text")


class MajorityVerifier:
    """See `reward.verifier.Verifier`. Requests of a group arrive in one call of `verify`."""

    name = "majority"

    def __init__(self, config: RewardConfig) -> None:
        self._symbolic_s = SYMBOLIC_SHARE * config.deadline_s
        one_s = config.deadline_s - self._symbolic_s
        self._math = MathVerifier(dataclasses.replace(config, deadline_s=one_s))

    @staticmethod
    def check(config: RewardConfig) -> None:
        """Raises ToolError where math-verify is missing."""
        MathVerifier.check(config)

    def pids(self) -> list[int]:
        return self._math.pids()

    def close(self) -> None:
        self._math.close()

    def verify(self, requests: Sequence[VerifyRequest]) -> list[Verdict]:
        verdicts: dict[int, Verdict] = {}
        for positions in members(requests):
            verdicts.update(zip(positions, self._elect([requests[i] for i in positions]), strict=True))
        return [verdicts[position] for position in range(len(requests))]

    def _elect(self, voters: list[VerifyRequest]) -> list[Verdict]:
        started = time.monotonic()
        try:
            check_group(voters)
        except UnusableReference as error:
            return [Verdict(id=one.id, reward=0.0, status=Status.ERROR, detail=str(error)) for one in voters]
        reference = voters[0].reference
        ballot = Ballot(self._equal if reference.get("answer_kind", "math") == "math" else None, self._symbolic_s)
        classes = [ballot.cast(answer) for answer in map(ballot.read, (one.response for one in voters))]
        votes = Counter(one for one in classes if one is not None)
        label = reference.get("answer")
        right = ballot.find(ballot.spelled(label)) if label is not None else None
        seconds = (time.monotonic() - started) / len(voters)
        leave_one_out = reference.get("leave_one_out", False)
        verdicts = []
        for number, (voter, own) in enumerate(zip(voters, classes, strict=True)):
            winner = elected([*classes[:number], *classes[number + 1 :]] if leave_one_out else classes)
            components = {
                "votes": votes[own] / len(voters) if own is not None else 0.0,
                "answers": float(len(votes)),
                "undecided": float(ballot.undecided),
            }
            if label is not None:
                components["label_right"] = float(winner is not None and winner == right)
            verdicts.append(
                Verdict(
                    id=voter.id,
                    reward=float(own is not None and own == winner),
                    status=Status.MALFORMED if own is None else Status.SCORED,
                    components=components,
                    detail="the response gives no answer"
                    if own is None
                    else f"{votes[own]} of {len(voters)} responses answer {ballot.shown(own)}",
                    seconds=seconds,
                )
            )
        return verdicts

    def _equal(self, answer: str, other: str) -> bool | None:
        """Whether two answers mean the same, worked out by the math verifier; None where it does not come to an end."""
        verdict = self._math.verify(
            [
                VerifyRequest(
                    id="",
                    verifier="math",
                    response=rf"\boxed{{{answer}}}",
                    reference={"answer": other, "form": "any"},  # whose answer came first must not matter
                )
            ]
        )[0]
        return verdict.reward == 1.0 if verdict.status is Status.SCORED else None


class Ballot:
    """Answers, each in one spelling, sorted into classes of equal ones; a class's number is its order of appearance.

    `equal` works out whether two answers that are not the same text mean the same; None: texts alone count.
    """

    def __init__(self, equal: Callable[[str, str], bool | None] | None, deadline_s: float) -> None:
        self._equal = equal
        self._deadline = Deadline.after(deadline_s)
        self._class_of: dict[str, int] = {}  # of every spelling met
        self._first: list[str] = []  # the first spelling of each class
        self.undecided = 0  # comparisons that did not end: these answers count as different

    def read(self, response: str) -> str | None:
        """The answer in one spelling, or None where there is none, or one too long to be compared."""
        answer = extract_line(response) if self._equal is None else extract_answer(response)
        return None if answer is None or too_long(answer) else self.spelled(answer) or None

    def spelled(self, answer: str) -> str:
        if self._equal is None:
            return " ".join(answer.casefold().split())
        boxed = last_box(answer)  # a label may come as it stands in a solution
        return tidy(answer if boxed is None else boxed)

    def cast(self, answer: str | None) -> int | None:
        """The class of an answer, a new one where it equals none before it."""
        if answer is None:
            return None
        found = self.find(answer)
        if found is None:
            found = len(self._first)
            self._first.append(answer)
        self._class_of[answer] = found
        return found

    def find(self, answer: str) -> int | None:
        """The class of an answer, or None."""
        if answer in self._class_of or self._equal is None:
            return self._class_of.get(answer)
        unclear = []
        for number, first in enumerate(self._first):  # cheap comparisons with all before a dear one with any
            quick = compare_quickly(answer, first)
            if quick:
                return number
            if quick is None:
                unclear.append(number)
        return next((number for number in unclear if self._work_out(answer, self._first[number])), None)

    def _work_out(self, answer: str, first: str) -> bool:
        equal = None if self._deadline.passed else self._equal(answer, first)
        self.undecided += equal is None
        return bool(equal)

    def shown(self, number: int) -> str:
        return self._first[number][:60]


def elected(classes: Sequence[int | None]) -> int | None:
    """The class with most votes, of equals the one that appears first; None without a vote."""
    ranked = Counter(one for one in classes if one is not None).most_common(1)  # equals keep their order
    return ranked[0][0] if ranked else None


def check_group(voters: list[VerifyRequest]) -> None:
    """Raises UnusableReference where the requests cannot vote together."""
    reference = voters[0].reference
    if len(voters) < LEAST_VOTERS:
        raise UnusableReference(
            f"a majority needs at least {LEAST_VOTERS} responses of one group, got {len(voters)}: give the responses to"
            " a task the same `group`, or judge single responses with another verifier"
        )
    if any(voter.reference != reference for voter in voters):
        raise UnusableReference("the requests of one group have different majority references")
    check_options(reference)


def check_options(reference: Mapping[str, Any]) -> None:
    """Raises UnusableReference."""
    for key, value in reference.items():
        if key not in OPTIONS or not isinstance(value, OPTIONS[key]):
            raise UnusableReference(
                "a majority reference may have answer_kind (text), leave_one_out (true or false) and answer (text), got"
                f" {key}={value!r}"
            )
    if reference.get("answer_kind", "math") not in KINDS:
        raise UnusableReference(f"answer_kind is one of {', '.join(KINDS)}, got {reference['answer_kind']!r}")


def compare_quickly(answer: str, other: str) -> bool | None:
    """Whether two tidy answers, of equal text or both plain numbers, are equal; None where it takes more to know."""
    if same_text(answer, other):
        return True
    numbers = read_number(answer), read_number(other)
    return None if None in numbers else same_number(*numbers)
