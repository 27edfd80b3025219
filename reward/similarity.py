"""The verifier `similarity`: responses to paraphrases of one question earn reward for saying the same (PS-GRPO).

reference {"paraphrase": i, "order": 1 or 2, "compare": {"paraphrases": kappa, "rollouts": s}, "seed": int,
           "answers": [accepted answer, ...], "alpha": weight, "gamma": weight}         only `paraphrase` is required

Rule    R_ij = mean over u != i, m of sim(o_ij, o_um): all rollouts of all other paraphrases, or, with `compare`, s
        rollouts of each of kappa other paraphrases, the same ones for all rollouts of paraphrase i.
        With `answers`: (alpha R_ij + gamma F1) / (alpha + gamma), F1 the best token F1 against an answer.
        sim(o, o') is the sentence BLEU of o against o', orders up to `order`, in [0, 1].
Source  PS-GRPO of Con-RAG, arXiv:2510.04392 (A'-third; n = 6 paraphrases, g = 4, kappa = 3, s = 1, BLEU-2 best; alpha
        and gamma are not given there and are 1 here). Ours: the division by alpha + gamma, which keeps R in [0, 1],
        and BLEU's smoothing (exponential, effective order, as sacrebleu has it for sentences).
Traps   one constant answer to everything gets the most that consistency alone can give: use `answers`, or compose with
        a verifier of content. Advantages are meant within a paraphrase, not over the whole group.
"""

import random
import re
import string
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pydantic

from reward.child_verifier import check_library
from reward.config import RewardConfig
from reward.deadline import Deadline
from reward.errors import UnusableReference
from reward.groups import members
from reward.messages import Status, Verdict, VerifyRequest
from reward.thinking import after_thinking

LEAST_PARAPHRASES = 2
MAX_CHARS = 50_000  # of one answer: comparing two of this length takes about 0.05 s, and nothing can interrupt it
ARTICLES = re.compile(r"\b(?:a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


class Compare(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True, extra="forbid", frozen=True)
    paraphrases: int = pydantic.Field(ge=1)
    rollouts: int = pydantic.Field(default=1, ge=1)


class Reference(pydantic.BaseModel):
    """See the module docstring."""

    model_config = pydantic.ConfigDict(strict=True, extra="forbid", frozen=True)
    paraphrase: int
    order: int = pydantic.Field(default=2, ge=1, le=2)
    compare: Compare | None = None
    seed: int = 0
    answers: list[str] | None = pydantic.Field(default=None, min_length=1)
    alpha: float = pydantic.Field(default=1.0, ge=0.0)
    gamma: float = pydantic.Field(default=1.0, ge=0.0)


@dataclass(frozen=True, kw_only=True)
class Member:
    """One response of a group. `text` is None where it has no answer, or one too long to be compared."""

    request: VerifyRequest
    reference: Reference
    text: str | None
    problem: tuple[Status, str] | None = field(default=None)


class SimilarityVerifier:
    """See `reward.verifier.Verifier`. Requests of a group arrive in one call of `verify`."""

    name = "similarity"

    def __init__(self, config: RewardConfig) -> None:
        self._deadline_s = config.deadline_s

    @staticmethod
    def check(config: RewardConfig) -> None:
        """Raises ToolError where sacrebleu is missing."""
        check_library("sacrebleu", "sacrebleu")

    def pids(self) -> list[int]:
        return []

    def close(self) -> None:
        pass

    def verify(self, requests: Sequence[VerifyRequest]) -> list[Verdict]:
        verdicts: dict[int, Verdict] = {}
        for positions in members(requests):
            verdicts.update(zip(positions, self._compare([requests[i] for i in positions]), strict=True))
        return [verdicts[position] for position in range(len(requests))]

    def _compare(self, requests: list[VerifyRequest]) -> list[Verdict]:
        try:
            group = read(requests)
            others = compared_with(group)
        except UnusableReference as error:
            return [Verdict(id=one.id, reward=0.0, status=Status.ERROR, detail=str(error)) for one in requests]
        deadline = Deadline.after(self._deadline_s)
        bleu = Bleu(group[0].reference.order)
        return [self._verdict(member, others[member.reference.paraphrase], bleu, deadline) for member in group]

    def _verdict(self, member: Member, others: list[Member], bleu: "Bleu", deadline: Deadline) -> Verdict:
        started = time.monotonic()
        reference = member.reference
        components: dict[str, float] = {}
        reward = 0.0
        status, detail = member.problem or (Status.SCORED, f"compared with {len(others)} responses")
        if member.text is not None:
            total = 0.0
            for other in others:
                if deadline.passed:
                    status, detail = Status.TIMEOUT, f"not compared within {self._deadline_s:g} s"
                    break
                total += bleu(member.text, other.text)
            else:
                reward = components["consistency"] = total / len(others)
                if reference.answers is not None:
                    components["f1"] = max(token_f1(member.text, answer) for answer in reference.answers)
                    whole = reference.alpha + reference.gamma
                    reward = (reference.alpha * reward + reference.gamma * components["f1"]) / whole
        return Verdict(
            id=member.request.id,
            reward=reward,
            status=status,
            components=components,
            detail=detail,
            seconds=time.monotonic() - started,
        )


class Bleu:
    """Sentence BLEU in [0, 1] of a response against another; 0 for one that has no text."""

    def __init__(self, order: int) -> None:
        from sacrebleu.metrics import BLEU  # slow to import, and a check must work without it

        self._bleu = BLEU(max_ngram_order=order, effective_order=True)

    def __call__(self, text: str, other: str | None) -> float:
        if other is None:
            return 0.0
        return min(1.0, self._bleu.sentence_score(text, [other]).score / 100)


def read(requests: Sequence[VerifyRequest]) -> list[Member]:
    """Raises UnusableReference for a reference that is wrong, or not of one piece with the others of its group."""
    group = [member_of(request) for request in requests]
    shared = {member.reference.model_copy(update={"paraphrase": 0}).model_dump_json() for member in group}
    if len(shared) > 1:
        raise UnusableReference("the similarity references of one group differ in more than their paraphrase")
    paraphrases = len({member.reference.paraphrase for member in group})
    if paraphrases < LEAST_PARAPHRASES:
        raise UnusableReference(
            f"similarity compares responses to at least {LEAST_PARAPHRASES} paraphrases of one group, got {paraphrases}"
        )
    first = group[0].reference
    if first.answers is not None and first.alpha + first.gamma == 0.0:
        raise UnusableReference("a similarity reference has alpha or gamma above 0")
    return group


def read_reference(reference: Mapping[str, Any]) -> Reference:
    """Raises UnusableReference."""
    try:
        return Reference.model_validate(dict(reference))
    except pydantic.ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise UnusableReference(f"similarity reference: {where}: {problem['msg']}") from error


def member_of(request: VerifyRequest) -> Member:
    reference = read_reference(request.reference)
    text = after_thinking(request.response)
    if text is None or not text.strip():
        status, why = Status.MALFORMED, "the response gives no answer"
    elif len(text) > MAX_CHARS:
        status, why = Status.RESOURCE, f"the answer has {len(text)} characters, at most {MAX_CHARS} are compared"
    else:
        return Member(request=request, reference=reference, text=text.strip())
    return Member(request=request, reference=reference, text=None, problem=(status, why))


def compared_with(group: Sequence[Member]) -> Mapping[int, list[Member]]:
    """paraphrase -> the responses that its own are compared with. Raises UnusableReference where there are too few."""
    by_paraphrase: dict[int, list[Member]] = defaultdict(list)
    for member in group:
        by_paraphrase[member.reference.paraphrase].append(member)
    compare, seed = group[0].reference.compare, group[0].reference.seed
    chosen: dict[int, list[Member]] = {}
    for own in by_paraphrase:
        others = [members for paraphrase, members in by_paraphrase.items() if paraphrase != own]
        if compare is not None:
            if compare.paraphrases > len(others) or compare.rollouts > min(map(len, others)):
                raise UnusableReference(
                    f"compare asks for {compare.rollouts} responses to each of {compare.paraphrases} other paraphrases,"
                    f" the group has {len(others)} with at least {min(map(len, others))}"
                )
            # the ids differ from step to step, so another sample is drawn each time, and the same again on a retry
            draw = random.Random(f"{seed}/{group[0].request.id}/{own}")
            others = [draw.sample(of, compare.rollouts) for of in draw.sample(others, compare.paraphrases)]
        chosen[own] = [member for of in others for member in of]
    return chosen


def token_f1(text: str, answer: str) -> float:
    """Harmonic mean of precision and recall of words, without case, punctuation and articles (as SQuAD counts)."""
    given, expected = words(text), words(answer)
    if not given or not expected:
        return float(given == expected)
    common = (Counter(given) & Counter(expected)).total()
    return 2 * common / (len(given) + len(expected))


def words(text: str) -> list[str]:
    return ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split()
