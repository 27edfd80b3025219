"""Similarity over paraphrases: BLEU by hand, the mean over the others, and the label's part."""

import math

import pytest

from reward.config import RewardConfig
from reward.messages import Status, Verdict, VerifyRequest
from reward.similarity import MAX_CHARS, SimilarityVerifier, token_f1

# BLEU-2 of hypothesis against reference: brevity penalty * sqrt(p1 * p2), p2 is 1 / (2 n) where no pair matches
SAT = "the cat sat"
DOG = "the dog sat"
SAT_DOG = math.sqrt(2 / 3 * 1 / 4)  # 2 of 3 words, none of 2 pairs
SHORT = "the cat"
SHORT_SAT = math.exp(1 - 3 / 2)  # all words and pairs, two words against three
SAT_SHORT = math.sqrt(2 / 3 * 1 / 2)


def compare(responses: list[tuple[int, str]], **reference) -> list[Verdict]:
    requests = [
        VerifyRequest(
            id=f"{number}",
            verifier="similarity",
            response=response,
            reference={"paraphrase": paraphrase, **reference},
            group="q",
        )
        for number, (paraphrase, response) in enumerate(responses)
    ]
    return SimilarityVerifier(RewardConfig()).verify(requests)


def rewards(verdicts: list[Verdict]) -> list[float]:
    return [verdict.reward for verdict in verdicts]


def test_the_reward_is_the_mean_similarity_to_the_other_paraphrases():
    """Two paraphrases with two responses each: one's own paraphrase does not count, every other response does."""
    verdicts = compare([(0, SAT), (0, SHORT), (1, SAT), (1, DOG)])
    short_dog = math.exp(1 - 3 / 2) * math.sqrt(1 / 2 * 1 / 2)  # 1 of 2 words; 0 of 1 pairs, smoothed to 1/2
    dog_short = math.sqrt(1 / 3 * 1 / 4)  # 1 of 3 words; 0 of 2 pairs, smoothed to 1/4
    assert rewards(verdicts) == pytest.approx(
        [
            (1 + SAT_DOG) / 2,
            (SHORT_SAT + short_dog) / 2,
            (1 + SAT_SHORT) / 2,
            (SAT_DOG + dog_short) / 2,
        ]
    )
    assert all(verdict.components == {"consistency": verdict.reward} for verdict in verdicts)


def test_bleu_1_counts_words_alone():
    """order 1: two of three words."""
    assert rewards(compare([(0, SAT), (1, DOG)], order=1)) == pytest.approx([2 / 3, 2 / 3])


def test_reasoning_is_not_compared():
    """What comes before </think> may differ."""
    assert rewards(compare([(0, f"<think>x y z</think>{SAT}"), (1, SAT)])) == pytest.approx([1.0, 1.0])


def test_labels_add_their_share():
    """(alpha R + gamma F1) / (alpha + gamma): R = 1, and F1 of `the cat sat` against `Cat, sleeping!` is 2 * 1 / 4."""
    verdicts = compare([(0, SAT), (1, SAT)], answers=["Cat, sleeping!", "dog"], alpha=1.0, gamma=3.0)
    assert rewards(verdicts) == pytest.approx([(1 + 3 * 0.5) / 4] * 2)
    assert verdicts[0].components == pytest.approx({"consistency": 1.0, "f1": 0.5})


def test_token_f1_by_hand():
    """Articles, case and punctuation do not count; repeated words count as often as both have them."""
    assert token_f1("The cat, the CAT and a dog.", "cat dog dog") == pytest.approx(2 * 2 / (4 + 3))
    assert token_f1("no", "yes") == 0.0
    assert token_f1("the", "a") == 1.0


def test_a_sample_of_others_is_drawn_once_for_a_paraphrase():
    """With kappa = s = 1 a paraphrase's responses meet one and the same other; which one depends on the seed alone."""
    said = ["alpha", "alpha beta", "alpha beta gamma", "alpha beta gamma delta"]  # 1/4, 2/4, 3/4 and 4/4 of our words
    responses = [(0, said[-1]), (0, said[-1]), *((number, text) for number, text in enumerate(said, start=1))]
    seen = set()
    for seed in range(40):
        first, second = rewards(compare(responses, order=1, compare={"paraphrases": 1}, seed=seed))[:2]
        assert first == second
        assert first == rewards(compare(responses, order=1, compare={"paraphrases": 1}, seed=seed))[0]
        seen.add(round(4 * first))
    assert seen == {1, 2, 3, 4}
    rollouts = [(0, said[-1]), *((1, text) for text in said)]
    of_one = [compare(rollouts, order=1, compare={"paraphrases": 1}, seed=seed)[0].reward for seed in range(40)]
    assert {round(4 * reward) for reward in of_one} == {1, 2, 3, 4}


def test_a_sample_of_all_is_all():
    """kappa = n - 1 and s = g give what no sampling gives."""
    responses = [(0, SAT), (0, SHORT), (1, SAT), (1, DOG), (2, DOG), (2, SHORT)]
    sampled = compare(responses, compare={"paraphrases": 2, "rollouts": 2})
    assert rewards(sampled) == pytest.approx(rewards(compare(responses)))


def test_constant_answers_get_the_most():
    """The trap, on record: saying the same to everything is rewarded in full by consistency alone."""
    assert rewards(compare([(0, "42"), (1, "42"), (2, "42")])) == pytest.approx([1.0] * 3)


@pytest.mark.parametrize(
    ("response", "status"),
    [("", Status.MALFORMED), ("<think>x", Status.MALFORMED), ("x" * (MAX_CHARS + 1), Status.RESOURCE)],
)
def test_a_response_without_an_answer_is_like_none(response, status):
    """It gets 0 and its status, and whoever is compared with it gets 0 for that comparison."""
    verdicts = compare([(0, response), (1, SAT), (2, SAT)])
    assert (verdicts[0].status, verdicts[0].reward) == (status, 0.0)
    assert rewards(verdicts)[1:] == pytest.approx([0.5, 0.5])


def test_a_deadline_ends_the_comparisons():
    """Who was not compared in time has timed out."""
    requests = [
        VerifyRequest(id=f"{i}", verifier="similarity", response=SAT, reference={"paraphrase": i}, group="q")
        for i in range(2)
    ]
    verdicts = SimilarityVerifier(RewardConfig(deadline_s=1e-9)).verify(requests)
    assert [verdict.status for verdict in verdicts] == [Status.TIMEOUT] * 2


@pytest.mark.parametrize(
    ("references", "sentence"),
    [
        ([{}, {"paraphrase": 1}], "similarity reference: paraphrase: Field required"),
        ([{"paraphrase": 0}, {"paraphrase": 0}], "at least 2 paraphrases of one group, got 1"),
        ([{"paraphrase": 0}, {"paraphrase": 1, "order": 1}], "differ in more than their paraphrase"),
        ([{"paraphrase": i, "order": 3} for i in range(2)], "similarity reference: order: "),
        ([{"paraphrase": i, "kappa": 3} for i in range(2)], "similarity reference: kappa: "),
        (
            [{"paraphrase": i, "compare": {"paraphrases": 2}} for i in range(2)],
            "asks for 1 responses to each of 2 other",
        ),
        ([{"paraphrase": i, "answers": ["a"], "alpha": 0.0, "gamma": 0.0} for i in range(2)], "alpha or gamma above 0"),
    ],
)
def test_what_cannot_be_compared_is_an_error(references, sentence):
    """One sentence for every response of the group."""
    requests = [
        VerifyRequest(id=f"{i}", verifier="similarity", response=SAT, reference=reference, group="q")
        for i, reference in enumerate(references)
    ]
    for verdict in SimilarityVerifier(RewardConfig()).verify(requests):
        assert verdict.status is Status.ERROR
        assert sentence in verdict.detail
