import math

import pytest
import torch

from learner.objective.scores import covariance, entropy_change, surplus


@pytest.fixture
def stats(token_stats):
    """Two responses of three and one trained tokens, and a token in the padding that would spoil every mean."""
    generator = torch.Generator().manual_seed(1)
    lp = -torch.rand(2, 3, generator=generator, dtype=torch.float64)
    lp[1, 1:] = -50.0
    return token_stats(
        [[1, 1, 1], [1, 0, 0]],
        lp=lp,
        lp_old=lp + 0.1,
        advantage=torch.tensor([[1.5] * 3, [-0.5, 9.0, 9.0]], dtype=torch.float64),
        entropy=torch.rand(2, 3, generator=generator, dtype=torch.float64) + 0.5,
    )


PLACES = [(0, 0), (0, 1), (0, 2), (1, 0)]


def test_covariance_by_a_loop(stats):
    """Both means are over the four trained tokens."""
    mean_a = sum(stats.advantage[at].item() for at in PLACES) / 4
    mean_lp = sum(stats.lp[at].item() for at in PLACES) / 4
    for at in PLACES:
        expected = (stats.advantage[at].item() - mean_a) * (stats.lp[at].item() - mean_lp)
        assert covariance(stats)[at].item() == pytest.approx(expected)


def test_the_two_forms_of_the_entropy_change_agree(stats):
    """|A| ratio (1 - p) |lp + H| is the paper's |A / p_old * p (1 - p) (lp + H)|."""
    for at in PLACES:
        lp, old, advantage, entropy = (
            getattr(stats, name)[at].item() for name in ("lp", "lp_old", "advantage", "entropy")
        )
        p = math.exp(lp)
        assert entropy_change(stats)[at].item() == pytest.approx(
            abs(advantage / math.exp(old) * p * (1 - p) * (lp + entropy))
        )


def test_the_surplus_of_uniform_and_of_certain_tokens_is_zero():
    """Every token of a uniform policy is typical, and so is the only one of a certain policy."""
    lp = torch.tensor([[-math.log(7.0), 0.0]], dtype=torch.float64)
    entropy = torch.tensor([[math.log(7.0), 0.0]], dtype=torch.float64)
    assert surplus(lp, entropy)[0].tolist() == pytest.approx([0.0, 0.0])
    assert surplus(torch.tensor([math.log(0.5)]), torch.tensor([2.0])).item() == pytest.approx(
        0.5 * (2.0 - math.log(2.0))
    )


def test_an_infinite_change_counts_as_none(token_stats):
    stats = token_stats([[1]], lp=[[0.0]], lp_old=[[-2000.0]], advantage=[[1.0]], entropy=[[1.0]])
    assert entropy_change(stats).tolist() == [[0.0]]
