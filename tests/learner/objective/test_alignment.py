"""The alignment of right answers, against float64 loops over pairs; every sample alone has to move the whole of it."""

import dataclasses
import itertools
import math

import pytest
import torch

from learner.objective import Counts, Objective
from learner.objective.advantage import GroupMean
from learner.objective.aggregate import TokenMean
from learner.objective.alignment import AlignRight
from learner.objective.marks import Right
from learner.objective.observations import AnswerState
from learner.objective.stats import Peers
from learner.objective.surrogate import Clipped

GROUPS = [7, 7, 7, 7, 2, 2, 2, 9, 5, 5]
RIGHT = [1, 1, 0, 1, 1, 1, 0, 1, 0, 0]  # three of 7, two of 2, one alone, and a group in which all are wrong
CHANNELS = 6


def states_of(samples) -> torch.Tensor:
    return torch.randn(samples, CHANNELS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def stats_of(token_stats, states, chosen=None, groups=GROUPS, right=RIGHT):
    """Of the chosen samples; the peers are all. Responses of 1 to 3 tokens."""
    chosen = list(range(len(groups))) if chosen is None else chosen
    mask = torch.tensor([[t <= index % 3 for t in range(3)] for index in chosen])
    marks = torch.tensor(right, dtype=torch.float32)
    peers = Peers(states=states.detach(), group=torch.tensor(groups), marks={"right": marks})
    stats = token_stats(
        mask,
        group=torch.tensor(groups)[chosen],
        marks={"right": marks[chosen]},
        answers=states[chosen],
        lp=torch.zeros(mask.shape, dtype=torch.float64, requires_grad=True),
    )
    return dataclasses.replace(stats, peers=peers)


def objective_of(piece) -> Objective:
    return Objective(
        advantage=GroupMean(),
        surrogate=Clipped(),
        aggregate=TokenMean(),
        marks={"right": Right()},
        regularisers={"align": piece},
    )


def cosine(one, two):
    return (one * two).sum() / (one.square().sum() * two.square().sum()).sqrt()


def slow(form, states, groups=GROUPS, right=RIGHT):
    """The mean over groups of X, each by its definition."""
    found = []
    for group in sorted(set(groups)):
        members = [states[i] for i in range(len(groups)) if groups[i] == group and right[i]]
        pairs = list(itertools.combinations(members, 2))
        if not pairs:
            continue
        if form == "pairwise":
            found.append(1 - sum(cosine(*pair) for pair in pairs) / len(pairs))
        elif form == "l2":
            found.append(sum((one - two).square().mean() for one, two in pairs) / len(pairs))
        else:
            units = [one / one.norm() for one in members]
            centre = sum(units) / sum(units).norm()
            found.append(1 - sum((one * centre).sum() for one in units) / len(units))
    return sum(found) / len(found) if found else 0.0 * states.sum()


@pytest.mark.parametrize("form", ["pairwise", "centroid", "l2"])
@pytest.mark.parametrize("cut", [[range(10)], [[0, 5, 9], [4], [8, 7, 1], [2, 3, 6]]], ids=["whole", "in pieces"])
def test_value_and_gradient_are_those_of_the_definition(form, cut, token_stats):
    """However the samples are dealt out, losses and gradients add up to those of the loop over pairs."""
    states = states_of(10).requires_grad_()
    objective = objective_of(AlignRight(form=form, coefficient=0.3))
    counts = Counts(tokens=20, sequences=10, groups=4)
    total = sum(objective(stats_of(token_stats, states, list(part)), counts)[0] for part in cut)
    (gradient,) = torch.autograd.grad(total, states)
    exact = states.detach().clone().requires_grad_()
    expected = 0.3 * slow(form, exact)
    expected.backward()
    assert total.item() == pytest.approx(expected.item())
    torch.testing.assert_close(gradient, exact.grad)
    assert (gradient[[2, 6, 7, 8, 9]] == 0).all()


def test_by_hand(token_stats):
    """Two right answers at an angle of 60 degrees: X = 1/2; centroid 1 - cos 30; l2 of unit vectors 1 / 2 channels."""
    states = torch.tensor([[1.0, 0.0], [0.5, math.sqrt(0.75)]], dtype=torch.float64)
    for form, expected in (("pairwise", 0.5), ("centroid", 1 - math.sqrt(0.75)), ("l2", 0.5)):
        stats = stats_of(token_stats, states, groups=[0, 0], right=[1, 1])
        loss, _ = objective_of(AlignRight(form=form, coefficient=2.0))(stats, Counts(tokens=3, sequences=2, groups=1))
        assert loss.item() == pytest.approx(2.0 * expected)


def test_right_and_wrong_cosines_are_reported(token_stats):
    """Means over groups of means over pairs; a group of one has no pair."""
    states = states_of(10)
    _, measures = AlignRight()(stats_of(token_stats, states))
    for name, right in (("right", RIGHT), ("wrong", [1 - each for each in RIGHT])):
        measure = measures[f"align/{name}_cosine"]
        assert (measure.value / measure.weight).item() == pytest.approx(
            1 - slow("pairwise", states, right=right).item()
        )


@pytest.mark.parametrize(("groups", "right"), [([0, 0, 0], [0, 0, 0]), ([0, 0], [1, 0]), ([3], [1])])
@pytest.mark.parametrize("form", ["pairwise", "centroid", "l2"])
def test_without_two_right_answers_nothing_pulls(form, groups, right, token_stats):
    """All wrong, one right, a group of one: loss and gradient are 0."""
    states = states_of(len(groups)).requires_grad_()
    stats = stats_of(token_stats, states, groups=groups, right=right)
    loss, _ = objective_of(AlignRight(form=form))(stats, Counts(tokens=5, sequences=len(groups), groups=1))
    (gradient,) = torch.autograd.grad(loss, states)
    assert loss.item() == 0.0
    assert (gradient == 0).all()


@pytest.mark.parametrize("form", ["pairwise", "centroid", "l2"])
def test_answers_that_agree_are_at_rest(form, token_stats):
    """All right and from one state: X and its gradient are 0 (up to rounding)."""
    states = states_of(1).expand(4, CHANNELS).clone().requires_grad_()
    stats = stats_of(token_stats, states, groups=[0] * 4, right=[1] * 4)
    loss, _ = objective_of(AlignRight(form=form))(stats, Counts(tokens=8, sequences=4, groups=1))
    (gradient,) = torch.autograd.grad(loss, states)
    assert loss.item() == pytest.approx(0.0, abs=1e-12)
    assert gradient.abs().max() < 1e-12


def test_unknown_forms_and_two_places_are_refused():
    with pytest.raises(ValueError, match="form is 'pairwise', 'centroid' or 'l2'"):
        AlignRight(form="cosine")
    with pytest.raises(ValueError, match="AnswerState.marker"):
        AnswerState(marker="")
    two = {"one": AlignRight(), "other": AlignRight(state=AnswerState(marker=None))}
    with pytest.raises(ValueError, match="one place where its answer begins"):
        Objective(
            advantage=GroupMean(),
            surrogate=Clipped(),
            aggregate=TokenMean(),
            marks={"right": Right()},
            regularisers=two,
        )
