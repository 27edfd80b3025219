"""The vote: who wins, who is left out of it, and what a reference may say."""

import pytest

from reward.config import RewardConfig
from reward.majority import MajorityVerifier
from reward.messages import Status, Verdict, VerifyRequest


@pytest.fixture(scope="module")
def verifier():
    verifier = MajorityVerifier(RewardConfig(sandbox="unsafe", deadline_s=60.0))
    yield verifier
    verifier.close()


def elect(verifier: MajorityVerifier, answers: list[str], reference: dict | None = None) -> list[Verdict]:
    """Responses that box their answers; "" is one without any."""
    requests = [
        VerifyRequest(
            id=f"{number}",
            verifier="majority",
            response=rf"so \boxed{{{answer}}}" if answer else "I do not know",
            reference=reference or {},
            group="g",
        )
        for number, answer in enumerate(answers)
    ]
    return verifier.verify(requests)


def rewards(verdicts: list[Verdict]) -> list[float]:
    return [verdict.reward for verdict in verdicts]


@pytest.mark.parametrize(
    ("answers", "alone", "leave_one_out"),
    [
        (["1", "2", "2", "3"], [0, 1, 1, 0], [0, 0, 0, 0]),  # without its own vote a 2 ties with the 1 before it
        (["2", "1", "2"], [1, 0, 1], [0, 0, 1]),  # among the others of the first 2, 1 appears first
        (["2", "1", "2", "2"], [1, 0, 1, 1], [1, 0, 1, 1]),
        (["1", "2", "2", "1"], [1, 0, 0, 1], [0, 0, 0, 0]),
        (["3", "2", "1"], [1, 0, 0], [0, 0, 0]),
        (["5", "5", "5"], [1, 1, 1], [1, 1, 1]),
        (["", "", "4", "4", ""], [0, 0, 1, 1, 0], [0, 0, 1, 1, 0]),
    ],
)
def test_the_class_with_most_votes_wins_and_the_earliest_of_equals(verifier, answers, alone, leave_one_out):
    """Worked out by hand; responses without an answer are many and still do not win."""
    assert rewards(elect(verifier, answers)) == alone
    assert rewards(elect(verifier, answers, {"leave_one_out": True})) == leave_one_out


def test_equal_answers_in_other_spellings_vote_together(verifier):
    """1/2, 0.5 and \\frac12 are one class of three: it beats the two responses that agree on 7."""
    verdicts = elect(verifier, ["7", r"\frac12", "0.5", "7", r"\dfrac{1}{2}"])
    assert rewards(verdicts) == [0, 1, 1, 0, 1]
    assert verdicts[1].components == {"votes": 3 / 5, "answers": 2.0, "undecided": 0.0}
    assert verdicts[0].components["votes"] == 2 / 5


def test_equality_is_worked_out_where_it_takes_algebra(verifier):
    """(x+1)^2 and x^2+2x+1 vote together against two spellings of nothing else."""
    assert rewards(elect(verifier, ["y", "(x+1)^2", "x^2+2x+1"])) == [0, 1, 1]


def test_no_answer_at_all_gives_nobody_anything(verifier):
    """Nothing can win: all are malformed with reward 0."""
    verdicts = elect(verifier, ["", ""])
    assert rewards(verdicts) == [0, 0]
    assert {verdict.status for verdict in verdicts} == {Status.MALFORMED}


def test_an_answer_too_long_to_compare_does_not_vote(verifier):
    """Two of a million characters lose against one that can be read."""
    verdicts = elect(verifier, ["1" * 2**20, "1" * 2**20, "4"])
    assert rewards(verdicts) == [0, 0, 1]
    assert [verdict.status for verdict in verdicts] == [Status.MALFORMED, Status.MALFORMED, Status.SCORED]


def test_text_answers_are_equal_but_for_case_and_spaces(verifier):
    """`text` does no mathematics: 0.5 is not 1/2 there."""
    reference = {"answer_kind": "text"}
    assert rewards(elect(verifier, ["Paris ", "paris", "Rome"], reference)) == [1, 1, 0]
    assert rewards(elect(verifier, ["0.5", "1/2", "1/2"], reference)) == [0, 1, 1]


@pytest.mark.parametrize(("label", "right"), [("0.5", 1.0), (r"so \boxed{\frac{1}{2}}", 1.0), ("7", 0.0), ("9", 0.0)])
def test_a_label_is_only_reported(verifier, label, right):
    """Whether the elected answer is the label's shows in the components and changes no reward."""
    verdicts = elect(verifier, ["1/2", "1/2", "7"], {"answer": label})
    assert rewards(verdicts) == [1, 1, 0]
    assert [verdict.components["label_right"] for verdict in verdicts] == [right] * 3


def test_groups_vote_apart_and_verdicts_keep_their_order(verifier):
    """Requests of two groups in one call: each elects its own answer."""
    requests = [
        VerifyRequest(id=f"{i}", verifier="majority", response=f"#### {answer}", reference={}, group=group)
        for i, (group, answer) in enumerate([("a", 1), ("b", 2), ("a", 1), ("b", 2), ("a", 2), ("b", 1)])
    ]
    verdicts = verifier.verify(requests)
    assert [verdict.id for verdict in verdicts] == [f"{i}" for i in range(6)]
    assert rewards(verdicts) == [1, 1, 1, 1, 0, 0]


def test_comparisons_that_do_not_end_are_counted(verifier, monkeypatch):
    """What cannot be decided counts as different, and the verdict says how often that was so."""
    monkeypatch.setattr(verifier, "_equal", lambda answer, other: None)
    verdicts = elect(verifier, ["x+1", "1+x", "x+1"])
    assert rewards(verdicts) == [1, 0, 1]
    assert verdicts[0].components["undecided"] == 1.0


@pytest.mark.parametrize(
    ("references", "sentence"),
    [
        ([{}], "a majority needs at least 2 responses of one group, got 1"),
        ([{}, {"leave_one_out": True}], "different majority references"),
        ([{"leave_one_out": 1}] * 2, "got leave_one_out=1"),
        ([{"labels": 3}] * 2, "got labels=3"),
        ([{"answer_kind": "prose"}] * 2, "answer_kind is one of math, text, got 'prose'"),
    ],
)
def test_what_cannot_be_voted_on_is_an_error(verifier, references, sentence):
    """One sentence, for every response of the group, and no reward."""
    requests = [
        VerifyRequest(id=f"{i}", verifier="majority", response="#### 1", reference=reference, group="g")
        for i, reference in enumerate(references)
    ]
    for verdict in verifier.verify(requests):
        assert verdict.status is Status.ERROR
        assert sentence in verdict.detail
