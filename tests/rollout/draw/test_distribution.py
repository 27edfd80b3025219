"""Distributions of a next token: entropy with probabilities, temperature per row, greedy rows as point masses."""

import math

import pytest
import torch

from rollout.draw.distribution import entropy, point_mass_, probabilities, softmax_with_entropy, temper

LOGITS = torch.tensor([[2.0, -1.0, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0], [9.0, -math.inf, 1.0, 8.0]])


def slow_probabilities(row: list[float], temperature: float) -> list[float]:
    weights = [math.exp(z / temperature) for z in row]
    return [weight / sum(weights) for weight in weights]


def test_probabilities_and_entropy_come_together():
    """Both as a float64 loop computes them, a masked token included."""
    found, entropies = softmax_with_entropy(LOGITS)
    for row, logits in enumerate(LOGITS.tolist()):
        expected = slow_probabilities(logits, 1.0)
        assert found[row].tolist() == pytest.approx(expected, abs=1e-6)
        assert entropies[row].item() == pytest.approx(-sum(p * math.log(p) for p in expected if p), abs=1e-6)


def test_large_logits_do_not_hurt_the_entropy():
    """A constant added to every logit changes nothing, even one that swallows float32's digits of a plain sum."""
    logits = torch.tensor([[3.0, 1.0, 0.0, -2.0]])
    assert entropy(logits + 4096.0).item() == pytest.approx(entropy(logits).item(), abs=1e-5)


def test_the_gradient_of_the_entropy():
    """dH / dz_j = -p_j (ln p_j + H), the textbook form."""
    logits = torch.tensor([[1.0, -0.5, 2.0]], requires_grad=True)
    entropy(logits).sum().backward()
    p = logits.detach().double().softmax(-1)
    h = -(p * p.log()).sum()
    assert logits.grad[0].tolist() == pytest.approx((-p * (p.log() + h))[0].tolist(), abs=1e-6)


def test_each_row_has_its_own_temperature_and_zero_is_greedy():
    """softmax(z / T) row by row; T = 0 puts all mass on the first of the most likely tokens."""
    logits = torch.tensor([[2.0, -1.0, 0.5, 0.0], [0.0, 3.0, 3.0, 1.0], [9.0, -3.0, 1.0, 8.0]])
    found = probabilities(logits, torch.tensor([0.5, 0.0, 1.7]))
    assert found[0].tolist() == pytest.approx(slow_probabilities(logits[0].tolist(), 0.5), abs=1e-6)
    assert found[1].tolist() == [0.0, 1.0, 0.0, 0.0]
    assert found[2].tolist() == pytest.approx(slow_probabilities(logits[2].tolist(), 1.7), abs=1e-6)


def test_tempering_leaves_greedy_rows_and_the_callers_tensor_alone():
    """Row 0 is halved, row 1 of temperature 0 stays; nothing is written in place."""
    logits = torch.tensor([[2.0, 4.0], [1.0, 3.0]])
    assert temper(logits, torch.tensor([2.0, 0.0])).tolist() == [[1.0, 2.0], [1.0, 3.0]]
    assert logits.tolist() == [[2.0, 4.0], [1.0, 3.0]]


def test_point_masses_are_made_in_place_and_only_where_asked():
    """The rows asked for become one-hot; without any the tensor is as it was."""
    p = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]])
    assert point_mass_(p, torch.tensor([False, False])) is p
    assert point_mass_(p, torch.tensor([True, False])).tolist()[0] == [0.0, 1.0, 0.0]
    assert p[1].tolist() == pytest.approx([0.6, 0.3, 0.1])
