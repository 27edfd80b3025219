import math

import pytest
import torch

from learner.objective.corrections import RatioMask, SequenceImportance, SequenceKlMask

U = [[0.5, -0.2, 0.4], [-3.0, 0.1, 0.0]]  # lp_old - lp_sampler; the second response has two tokens
MASK = [[1, 1, 1], [1, 1, 0]]


@pytest.fixture
def stats(token_stats):
    return token_stats(MASK, lp_old=U, lp_sampler=torch.tensor([[0.0] * 3, [0.0, 0.0, -30.0]], dtype=torch.float64))


def test_one_weight_per_response_by_hand(stats):
    """exp of the sum over trained tokens, cut at the cap, the same for all tokens of the response."""
    weight, measures = SequenceImportance(cap=1.8)(stats)
    assert weight[0].tolist() == pytest.approx([1.8] * 3)  # exp(.7) = 2.01
    assert weight[1].tolist() == pytest.approx([math.exp(-2.9)] * 3)
    assert (measures["tis/clipped_fraction"].value.item(), measures["tis/clipped_fraction"].weight.item()) == (3, 5)


@pytest.mark.parametrize(
    ("of", "low", "high", "expected"),
    [
        ("token", 0.9, 1.6, [[0, 0, 1], [0, 1, 0]]),  # ratios 1.65, .82, 1.49 | .05, 1.11
        ("token", 0.8, 1.7, [[1, 1, 1], [0, 1, 0]]),
        ("sum", 0.0, 2.0, [[0, 0, 0], [1, 1, 0]]),  # 2.01 | .055
        ("mean", 0.5, 1.5, [[1, 1, 1], [0, 0, 0]]),  # 1.26 | .23
    ],
)
def test_masks_by_hand(of, low, high, expected, stats):
    assert RatioMask(of=of, low=low, high=high)(stats).int().tolist() == expected


def test_responses_on_which_both_sides_agree_stay(stats):
    """mean(exp u - u - 1): .10 for the first, 1.03 for the second response."""
    by_hand = [
        sum(math.expm1(u) - u for u, m in zip(us, ms, strict=True) if m) / sum(ms)
        for us, ms in zip(U, MASK, strict=True)
    ]
    assert by_hand == pytest.approx([0.0868, 1.0278], abs=1e-3)
    assert SequenceKlMask(limit=0.2)(stats).int().tolist() == [[1, 1, 1], [0, 0, 0]]
    assert SequenceKlMask(limit=2.0)(stats).int().tolist() == MASK


@pytest.mark.parametrize(
    "piece", [RatioMask(of="token", low=1.0, high=1.0), RatioMask(of="sum", low=1.0, high=1.0), SequenceKlMask(limit=0)]
)
def test_without_mismatch_everything_stays(piece, token_stats):
    assert piece(token_stats(MASK)).int().tolist() == MASK
    weight, _ = SequenceImportance()(token_stats(MASK))
    assert (weight == 1.0).all()


def test_impossible_values_are_refused():
    for make in (
        lambda: SequenceImportance(cap=0.0),
        lambda: RatioMask(of="word", low=0, high=1),
        lambda: RatioMask(of="sum", low=2, high=1),
        lambda: SequenceKlMask(limit=-1.0),
    ):
        with pytest.raises(ValueError, match=r"SequenceImportance|RatioMask|SequenceKlMask"):
            make()
