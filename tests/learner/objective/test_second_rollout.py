import dataclasses
import math
import statistics

import pytest
import torch

from learner.objective import Counts, Objective, Outcomes
from learner.objective.aggregate import TokenMean
from learner.objective.reads import LogProbAt
from learner.objective.second_rollout import ImitatedSeconds, OnlyRightSeconds, SecondRolloutAdvantage
from learner.objective.surrogate import Clipped
from rollout.draw.control import TargetEntropySwitch
from rollout.draw.temperature import Fixed

PLAIN = LogProbAt(temperature=1.0, gradient=True)


def advantage_of(**changes) -> SecondRolloutAdvantage:
    return SecondRolloutAdvantage(**({"temperature": Fixed(), "second": TargetEntropySwitch()} | changes))


def outcomes(rewards, groups, heat) -> Outcomes:
    rewards = torch.tensor(rewards, dtype=torch.float64)
    return Outcomes(
        rewards=rewards,
        unshaped=rewards,
        groups=torch.tensor(groups),
        lengths=torch.ones(len(rewards), dtype=torch.int64),
        prompts=torch.tensor(groups),
        heat=torch.tensor(heat, dtype=torch.float64),
        entropies=tuple(torch.zeros(1) for _ in groups),
    )


def normalised(values):
    return [(value - statistics.fmean(values)) / (statistics.stdev(values) + 1e-6) for value in values]


def test_advantages_of_both_rollouts_against_a_loop():
    """Main: GRPO among the main ones; second: 1 where right in a mixed group, 0 where wrong or where all are right."""
    hot = float(torch.tensor(1.2))  # as a float32 record has it
    batch = outcomes([1, 0, 0, 1, 0, 1, 1, 1, 1], [4] * 5 + [9] * 4, [1, 1, 1, hot, hot, 1, 1, 1, hot])
    found = advantage_of()(batch)
    assert found[:3].tolist() == pytest.approx(normalised([1, 0, 0]))
    assert found[3:].tolist() == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    kept = OnlyRightSeconds()(dataclasses.replace(batch, advantages=found))
    assert kept.tolist() == [True, True, True, True, False, True, True, True, False]
    measured = advantage_of().measured(batch)
    assert measured == {"aepo/second_fraction": pytest.approx(3 / 9), "aepo/right_fraction": pytest.approx(1 / 3)}


@pytest.mark.parametrize("heat", [1.0, 0.8])
def test_one_rollout_alone(heat):
    """Without a second response the advantages are GRPO's; a batch of second ones, or a group of one, is no error."""
    batch = outcomes([1, 0, 1], [0, 0, 1], [heat] * 3)
    expected = [*normalised([1, 0]), 0.0] if heat == 1.0 else [1.0, 0.0, 0.0]
    assert advantage_of()(batch).tolist() == pytest.approx(expected)
    assert all(math.isfinite(value) for value in advantage_of().measured(batch).values())


def test_second_tokens_are_imitated_at_temperature_one(token_stats):
    """Value and gradients by hand: the surrogate in the ratio for main tokens, -A lp_1 for the others, masked."""
    generator = torch.Generator().manual_seed(1)

    def normal():
        return torch.randn(2, 3, generator=generator, dtype=torch.float64)

    lp_old, lp, plain = -normal().abs(), -normal().abs(), -normal().abs()
    lp.requires_grad_()
    plain.requires_grad_()
    stats = token_stats(
        [[1, 1, 1], [1, 1, 0]],
        lp=lp,
        lp_old=lp_old,
        advantage=[[0.7] * 3, [1.0, 1.0, 0.0]],
        temperature=[[1.0] * 3, [1.2, 1.2, 1.0]],
        reads={PLAIN: plain},
    )
    objective = Objective(advantage=advantage_of(), surrogate=ImitatedSeconds(), aggregate=TokenMean())
    assert objective.reads == (PLAIN,)
    loss, measures = objective(stats, Counts(tokens=5, sequences=2, groups=1))
    loss.backward()
    expected, slopes, plain_slopes = 0.0, torch.zeros(2, 3).double(), torch.zeros(2, 3).double()
    for t in range(3):
        ratio = (lp[0, t] - lp_old[0, t]).exp().item()
        expected -= 0.7 * min(ratio, 1.2)
        slopes[0, t] = -0.7 * ratio / 5 if ratio < 1.2 else 0.0
    for t in range(2):
        expected -= 1.0
        plain_slopes[1, t] = -1.0 / 5
    assert loss.item() == pytest.approx(expected / 5)
    torch.testing.assert_close(lp.grad, slopes)
    torch.testing.assert_close(plain.grad, plain_slopes)
    assert "train/clip_fraction" in measures


def test_without_a_second_rollout_the_loss_is_that_of_grpo(token_stats):
    """To the bit."""
    lp = torch.tensor([[-1.0, -0.5]], dtype=torch.float64)
    stats = token_stats([[1, 1]], lp=lp, lp_old=[[-1.1, -0.9]], advantage=[[1.0, 1.0]], reads={PLAIN: 2 * lp})
    assert torch.equal(ImitatedSeconds()(stats)[0], Clipped()(stats)[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"second": None}, "draws none: choose strategy=second_rollout"),
        ({"temperature": Fixed(temperature=0.9)}, "main one is drawn at 1, got .*0.9.*: choose temperature=fixed"),
        ({"temperature": object()}, "choose temperature=fixed"),
    ],
)
def test_a_run_without_its_rollouts_is_refused(changes, message):
    """In one sentence that says what to choose."""
    with pytest.raises(ValueError, match=message):
        advantage_of(**changes)
