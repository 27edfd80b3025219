import math

import pytest
import torch

from learner.objective.weights import EntropyChangeDamping, LowToHigh, SignLean, TruncatedImportance


def test_values_by_hand(token_stats):
    """exp(lp_old - lp_sampler), cut at the cap; the metric counts the cut ones among response tokens only."""
    stats = token_stats(
        [[1, 1, 1, 0]],
        lp_old=[[math.log(0.5), math.log(0.9), -1.0, 0.0]],
        lp_sampler=[[math.log(0.25), math.log(0.1), -1.0, -5.0]],
    )
    weight, measures = TruncatedImportance(cap=2.5)(stats)
    assert weight[0, :3].tolist() == pytest.approx([2.0, 2.5, 1.0])
    cut = measures["tis/clipped_fraction"]
    assert (cut.value.item(), cut.weight.item()) == (1.0, 3.0)


def test_absurd_ratios_stay_finite(token_stats):
    """A token the sampler all but excluded gives the cap, never inf or NaN."""
    stats = token_stats([[1, 1]], lp_old=[[0.0, -2000.0]], lp_sampler=[[-1000.0, 0.0]])
    weight, _ = TruncatedImportance()(stats)
    assert weight[0, 0] == 2.0
    assert 0.0 <= weight[0, 1] < 1e-8


def test_weights_carry_no_gradient(token_stats):
    lp_old = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    weight, _ = TruncatedImportance()(token_stats([[1]], lp_old=lp_old))
    assert not weight.requires_grad


def test_an_impossible_cap_is_refused():
    with pytest.raises(ValueError, match="ratio > 0"):
        TruncatedImportance(cap=0.0)


@pytest.mark.parametrize("exponential", [False, True])
def test_damping_against_a_loop(exponential, token_stats):
    """STEER's two maps, token by token: the largest change has the lowest weight, padding does not count."""
    generator = torch.Generator().manual_seed(0)
    lp = -2 * torch.rand(2, 3, generator=generator, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]], dtype=torch.bool)
    advantage = torch.tensor([[1.0] * 3, [-0.6] * 3], dtype=torch.float64)
    entropy = torch.rand(2, 3, generator=generator, dtype=torch.float64)
    advantage[1, 2] = 100.0
    stats = token_stats(mask, lp=lp, lp_old=lp - 0.2, advantage=advantage, entropy=entropy)
    weight, _ = EntropyChangeDamping(exponential=exponential)(stats)

    def change(i, t):
        p = math.exp(lp[i, t])
        old = math.exp(lp[i, t] - 0.2)
        return abs(advantage[i, t].item() / old * p * (1 - p) * (lp[i, t].item() + entropy[i, t].item()))

    places = [tuple(at) for at in mask.nonzero().tolist()]
    changes = {at: change(*at) for at in places}
    low, high = min(changes.values()), max(changes.values())
    for at in places:
        if exponential:
            expected = math.exp(math.log(0.8) / max(high, 0.02) * changes[at])
        else:
            expected = 1.2 - (changes[at] - low) * (1.2 - 0.8) / (high - low)
        assert weight[at].item() == pytest.approx(expected)
    assert weight[1, 2] == 1.0


def test_damping_of_equal_changes_and_of_nothing(token_stats):
    """The middle where all are equal; an empty micro-batch has weights of 1; an outlier can be cut by a quantile."""
    stats = token_stats([[1, 1]], lp=[[-1.0, -1.0]], lp_old=[[-1.0, -1.0]], advantage=[[1.0, 1.0]])
    assert EntropyChangeDamping(low=0.5, high=2.0)(stats)[0][0].tolist() == [1.25, 1.25]
    assert EntropyChangeDamping()(token_stats([[0, 0]]))[0][0].tolist() == [1.0, 1.0]
    spread = token_stats([[1] * 4], lp=[[-1.0] * 4], lp_old=[[-1.0] * 4], advantage=[[0.0, 1.0, 2.0, 1e6]])
    assert EntropyChangeDamping()(spread)[0][0, 2].item() == pytest.approx(1.2, abs=1e-5)
    assert EntropyChangeDamping(quantile=0.6)(spread)[0][0].tolist() == pytest.approx([1.2, 0.95, 0.8, 0.8], abs=0.05)


def test_leaning_by_hand(token_stats):
    """1 + lean for good tokens, 1 - lean for bad ones, never below 0."""
    stats = token_stats([[1, 1, 1]], advantage=[[2.0, -0.1, 0.0]])
    assert SignLean(lean=0.3)(stats)[0][0].tolist() == pytest.approx([1.3, 0.7, 1.0])
    assert SignLean(lean=-1.5)(stats)[0][0].tolist() == pytest.approx([0.0, 2.5, 1.0])
    assert (SignLean()(stats)[0] == 1.0).all()


@pytest.mark.parametrize("wrong", [{"low": 0.0}, {"low": 2.0, "high": 1.0}, {"quantile": 0.0}])
def test_impossible_damping_is_refused(wrong):
    with pytest.raises(ValueError, match="EntropyChangeDamping"):
        EntropyChangeDamping(**wrong)


@pytest.mark.parametrize("progress", [0.0, 0.25, 0.5, 1.0])
def test_low_attention_entropy_first_and_high_later(progress, token_stats):
    """Ranks within the response by counting; equal values share theirs; the mean over a response is 1."""
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 0, 1], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.bool)
    values = torch.tensor([[0.3, 0.1, 0.3, 0.9, 0.2], [9.0, 0.5, 0.5, 0.0, 0.5], [0.7] + [0.0] * 4, [0.0] * 5])
    piece = LowToHigh(strength=0.6, progress=progress)
    weight, measures = piece(token_stats(mask, reads={piece.attention: values.double()}))
    for row in range(4):
        chosen = [t for t in range(5) if mask[row, t]]
        for t in range(5):
            expected = 1.0
            if t in chosen and len(chosen) > 1:
                below = sum(values[row, other] < values[row, t] for other in chosen)
                equal = sum(values[row, other] == values[row, t] for other in chosen) - 1
                rank = (below + equal / 2) / (len(chosen) - 1)
                expected = 1.0 + 0.6 * (1.0 - 2.0 * progress) * (1.0 - 2.0 * rank)
            assert weight[row, t].item() == pytest.approx(float(expected), abs=1e-6)
        if chosen:
            assert weight[row, chosen].mean().item() == pytest.approx(1.0)
    assert measures["attention/entropy"].value.item() == pytest.approx(1.8 + 1.5 + 0.7)
    assert measures["attention/entropy"].weight.item() == 9


@pytest.mark.parametrize("wrong", [{"strength": 1.0}, {"strength": -0.1}, {"progress": 1.5}])
def test_no_token_loses_its_weight(wrong):
    """A strength of 1 would train on one side alone at the end."""
    with pytest.raises(ValueError, match="LowToHigh needs strength in"):
        LowToHigh(**wrong)
