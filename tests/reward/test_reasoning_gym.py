"""reasoning_gym entries are scored by their own dataset, in a process of its own."""

import json

import pytest

from reward.config import RewardConfig
from reward.messages import Status, VerifyRequest
from reward.reasoning_gym import ReasoningGymVerifier, extract_line


@pytest.fixture(scope="module")
def verifier():
    built = ReasoningGymVerifier(RewardConfig())
    yield built
    built.close()


def judge(verifier, response, reference):
    request = VerifyRequest(id="3", verifier="reasoning_gym", response=response, reference=reference)
    (verdict,) = verifier.verify([request])
    return verdict


@pytest.mark.parametrize("dataset", ["leg_counting", "word_sorting", "countdown"])
def test_own_answers_score_one(verifier, dataset):
    """An entry that went through JSON accepts its own answer, and less than that for another."""
    reasoning_gym = pytest.importorskip("reasoning_gym")
    entry = json.loads(json.dumps(reasoning_gym.create_dataset(dataset, size=1, seed=5)[0]))
    reference = {"dataset": dataset, "entry": entry}
    right = judge(verifier, f"<think>hm</think>I say <answer>{entry['answer']}</answer>", reference)
    wrong = judge(verifier, "nonsense", reference)
    assert (right.status, right.reward) == (Status.SCORED, 1.0)
    assert (wrong.status, wrong.reward < 0.1) == (Status.SCORED, True)


def test_bad_references_and_empty_responses(verifier):
    """An unknown dataset and missing fields are errors of ours; an empty response is malformed."""
    assert judge(verifier, "5", {"dataset": "no_such", "entry": {}}).status == Status.ERROR
    assert judge(verifier, "5", {"dataset": "leg_counting"}).status == Status.ERROR
    assert judge(verifier, "<think>5</think>", {"dataset": "leg_counting", "entry": {}}).status == Status.MALFORMED


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("<answer>1</answer> or <answer> 2 </answer>", "2"),
        ("<answer>3", "3"),
        (r"so \boxed{4}", "4"),
        ("first\n\n 5 \n", "5"),
        ("<answer></answer>", None),
        ("", None),
    ],
)
def test_extract_line(response, answer):
    """The last tag, else the last box, else the last line."""
    assert extract_line(response) == answer
