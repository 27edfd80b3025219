import dataclasses
import math
import statistics

import numpy as np
import pytest
import torch

from learner.objective import Counts, Objective, Outcomes
from learner.objective.advantage import GroupMean
from learner.objective.aggregate import TokenMean
from learner.objective.ares import (
    Difficulty,
    DifficultyKl,
    DifficultySchedule,
    EntropyReward,
    EntropyTriggers,
    SecondChance,
)
from learner.objective.surrogate import Clipped


def outcomes(rewards, groups, entropies) -> Outcomes:
    rewards = torch.tensor(rewards, dtype=torch.float64)
    return Outcomes(
        rewards=rewards,
        unshaped=rewards,
        groups=torch.tensor(groups),
        lengths=torch.tensor([len(one) for one in entropies]),
        entropies=tuple(torch.tensor(one, dtype=torch.float64) for one in entropies),
    )


def random_batch(seed=0) -> Outcomes:
    """An easy, a medium and a hard group, responses of 1 to 40 tokens that are uncertain at different rates."""
    rng = np.random.default_rng(seed)
    rewards = [1, 1, 1, 0, 1, 0, 1, 0, 0, 0, 0, 1]
    groups = [5] * 4 + [2] * 4 + [8] * 4
    lengths = [30, 40, 12, 25, 1, 33, 28, 40, 22, 35, 4, 31]
    scale = [0.3, 3.0, 0.5, 2.0, 1.0, 1.5, 0.2, 2.5, 0.4, 1.0, 1.0, 3.0]
    return outcomes(rewards, groups, [rng.exponential(s, n).tolist() for s, n in zip(scale, lengths, strict=True)])


def slow_windows(entropy, w=4) -> list[float]:
    return [statistics.fmean(entropy[t + 1 : t + 1 + w]) for t in range(len(entropy) - w)]


def slow_threshold(batch) -> float:
    found = [np.percentile(slow_windows(one.tolist()), 95) for one in batch.entropies if len(one) > 4]
    return float(np.median(found))


def slow_triggers(batch, threshold) -> tuple[list[int], list[float]]:
    windows = [slow_windows(one.tolist()) for one in batch.entropies]
    counts = [sum(value >= threshold for value in one) for one in windows]
    return counts, [sum(max(0.0, value - threshold) for value in one) for one in windows]


@pytest.mark.parametrize("threshold", [None, 0.8])
def test_triggers_against_a_loop(threshold):
    """Tokens before a window of high mean entropy; the batch's threshold is the median of 95th percentiles."""
    batch = random_batch()
    counts, costs = EntropyTriggers(threshold=threshold)(batch)
    expected = slow_triggers(batch, slow_threshold(batch) if threshold is None else threshold)
    assert sum(expected[0]) > 5
    assert counts.tolist() == expected[0]
    assert costs.tolist() == pytest.approx(expected[1])


def test_responses_shorter_than_a_window_have_no_triggers():
    batch = outcomes([1, 0], [0, 0], [[3.0], [1.0, 2.0, 3.0, 4.0]])
    counts, costs = EntropyTriggers()(batch)
    assert counts.tolist() == costs.tolist() == [0.0, 0.0]
    assert all(math.isfinite(value) for value in EntropyReward().measured(batch).values())


def slow_bonus(right, bucket, n, target, alpha):
    """The table of the reward, one response at a time."""
    f, kappa, soft = {"easy": (0.15, 2, 2), "medium": (0.25, 3, 2.5), "hard": (0.35, 4, 3)}[bucket]
    cap = alpha * (1.2 if bucket == "hard" else 1.0)
    d, margin = n - target, max(1.0, f * max(target, 1.0))

    def penalty(x):
        x = max(x, 0.0)
        return (0.5 * x * x / kappa if x <= kappa else x - 0.5 * kappa) / (margin + kappa) * cap

    def rise(x):
        return 1 / (1 + math.exp(-x / soft)) * cap

    if not right:
        return rise(max(d - margin, 0.0)) * {"easy": 0.6, "medium": 0.8, "hard": 1.0}[bucket]
    if bucket == "easy":
        return -min(cap, penalty(d - margin))
    if bucket == "medium":
        return -min(cap, penalty(abs(d) - margin))
    return rise(d + margin) if d >= -margin else -min(cap, 0.5 * penalty(-d - margin))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("threshold", [0.8, 1.6, 0.2])
def test_the_reward_against_a_loop(seed, threshold):
    """e for every response from the released table, then GRPO on reward + e."""
    batch = random_batch(seed)
    alpha = {"easy": 0.3, "medium": 0.7, "hard": 0.9}
    piece = EntropyReward(
        triggers=EntropyTriggers(threshold=threshold), **{f"alpha_{name}": value for name, value in alpha.items()}
    )
    counts, _ = slow_triggers(batch, threshold)
    expected = []
    for start, bucket in ((0, "easy"), (4, "medium"), (8, "hard")):
        target = round(statistics.fmean(counts[start : start + 4]))
        expected += [
            slow_bonus(batch.rewards[i] == 1, bucket, counts[i], target, alpha[bucket]) for i in range(start, start + 4)
        ]
    assert piece.bonus(batch).tolist() == pytest.approx(expected)
    shaped = [reward + e for reward, e in zip(batch.rewards.tolist(), expected, strict=True)]
    for start in (0, 4, 8):
        four = shaped[start : start + 4]
        wanted = [(x - statistics.fmean(four)) / (statistics.stdev(four) + 1e-6) for x in four]
        assert piece(batch)[start : start + 4].tolist() == pytest.approx(wanted)
    measured = piece.measured(batch)
    assert measured["ares/triggers_hard"] == pytest.approx(statistics.fmean(counts[8:]))
    assert measured["ares/threshold"] == pytest.approx(slow_threshold(batch))


def test_a_hard_prompt_answered_without_thinking_by_hand():
    """16 16 16 and 0 triggers: n* = 12, margin 4.2, cap .6; the right answer is 7.8 below the margin, H = 5.8."""
    batch = outcomes([0, 0, 0, 1], [1] * 4, [[9.0] * 20] * 3 + [[0.0] * 20])
    found = EntropyReward(triggers=EntropyTriggers(threshold=1.0)).bonus(batch)
    assert found.tolist() == pytest.approx([0.3, 0.3, 0.3, -0.5 * 5.8 / (4.2 + 4.0) * 0.6])


def test_without_alpha_it_is_grpo():
    batch = random_batch()
    assert torch.equal(EntropyReward(alpha_easy=0.0, alpha_medium=0.0, alpha_hard=0.0)(batch), GroupMean()(batch))


@pytest.mark.parametrize(("rewards", "bucket"), [([1.0] * 3, 0.0), ([0.0] * 3, 2.0), ([1.0], 0.0), ([1, 0, 0], 1.0)])
def test_groups_that_agree_and_groups_of_one(rewards, bucket):
    """All right is easy, all wrong is hard; a group of one has no advantage, and equal responses have none either."""
    batch = outcomes(rewards, [3] * len(rewards), [[0.5, 2.0, 2.0, 2.0, 2.0, 0.1]] * len(rewards))
    assert Difficulty()(batch).tolist() == [bucket] * len(rewards)
    if bucket != 1.0:
        assert EntropyReward()(batch).tolist() == [0.0] * len(rewards)


def test_a_second_chance_is_for_easy_wrong_and_long_winded_answers():
    batch = outcomes(
        [1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1], [[9.0] * 8, [9.0] * 8, [9.0] * 8, [9.0] * 8, [0.0] * 8, [0.0] * 8]
    )
    marks = SecondChance(triggers=EntropyTriggers(threshold=1.0))(batch)
    assert marks.tolist() == [1.0, 1.0, 0.67, 1.0, 1.0, 1.0]
    assert (SecondChance(triggers=EntropyTriggers(threshold=9.0))(batch) == 1.0).all()


def test_the_kl_of_each_difficulty_by_hand(token_stats):
    """Value, gradient, and the mean of each bucket: coefficient * beta * chance * (exp(d) - d - 1)."""
    lp = torch.tensor([[-1.0, -2.0], [-1.0, 0.0], [-3.0, -1.0]], dtype=torch.float64, requires_grad=True)
    lp_ref = torch.tensor([[-0.5, -2.5], [-1.3, 0.0], [-3.2, -1.0]], dtype=torch.float64)
    marks = {"difficulty": torch.tensor([0.0, 2.0, 2.0]), "second_chance": torch.tensor([0.67, 1.0, 1.0])}
    stats = token_stats([[1, 1], [1, 0], [1, 1]], lp=lp, lp_ref=lp_ref, marks=marks)
    values, measures = DifficultyKl(coefficient=0.1, beta_easy=2.0, beta_hard=3.0)(stats)
    values[stats.mask].sum().backward()
    kl = lambda d: math.exp(d) - d - 1  # noqa: E731
    d = (lp_ref - lp).tolist()
    scale = [0.1 * 2.0 * 0.67, 0.1 * 3.0, 0.1 * 3.0]
    for i, t in ((0, 0), (0, 1), (1, 0), (2, 0), (2, 1)):
        assert values[i, t].item() == pytest.approx(scale[i] * kl(d[i][t]), rel=1e-6)
        assert lp.grad[i, t].item() == pytest.approx(scale[i] * (1 - math.exp(d[i][t])), rel=1e-6, abs=1e-12)
    means = {
        name: (measures[f"ares/kl_{name}"].value, measures[f"ares/kl_{name}"].weight)
        for name in ("easy", "medium", "hard")
    }
    assert [weight.item() for _, weight in means.values()] == [1.0, 0.0, 2.0]
    assert means["easy"][0].item() == pytest.approx((kl(0.5) + kl(-0.5)) / 2)
    assert means["hard"][0].item() == pytest.approx(kl(-0.3) + (kl(-0.2) + kl(0.0)) / 2)


def test_the_schedule_against_a_loop():
    """Threshold, alpha and beta of three steps by the released rules; what is not measured stays."""
    schedule = DifficultySchedule()
    steps = [
        {"ares/threshold": 1.0, "ares/triggers_easy": 2.3, "ares/triggers_hard": 2.3, "ares/kl_easy": 0.0},
        {"ares/threshold": 2.0, "ares/triggers_easy": 2.6, "ares/kl_easy": 0.05, "ares/kl_hard": 0.0101},
        {"ares/kl_easy": 0.001, "ares/kl_hard": 0.004},
    ]
    state = schedule.start()
    for metrics in steps:
        state = schedule.update(state, metrics)
    assert state["threshold"] == pytest.approx(0.99 * 1.0 + 0.01 * 2.0)
    assert state["alpha_easy"] == pytest.approx(0.5 + 0.05 * 0.3 - 0.05 * 0.4)
    assert state["alpha_hard"] == pytest.approx(0.5 - 0.05 * 0.3)
    assert state["alpha_medium"] == 0.5
    smooth, errors, log_beta = 0.05, 0.0, 0.0
    for kl in (0.05, 0.001):
        smooth = 0.97 * smooth + 0.03 * kl
        errors = 0.97 * errors + 0.03 * (smooth / 0.01 - 1)
        log_beta += 0.05 * min(0.2, max(-0.2, errors))
    assert state["beta_easy"] == pytest.approx(math.exp(log_beta))
    smooth = 0.97 * 0.0101 + 0.03 * 0.004  # the first error, .01, lies inside the dead zone, and so does this one
    assert abs(smooth / 0.01 - 1) < 0.02
    assert state["beta_hard"] == state["beta_medium"] == 1.0


def test_the_schedule_turns_knobs_that_exist():
    objective = Objective(
        advantage=EntropyReward(),
        surrogate=Clipped(),
        aggregate=TokenMean(),
        marks={"difficulty": Difficulty(), "second_chance": SecondChance()},
        regularisers={"kl": DifficultyKl()},
        controllers={"schedule": DifficultySchedule()},
    )
    assert objective.needs == {"lp_ref"}
    state = dict(DifficultySchedule().start()) | {"threshold": 0.7, "alpha_hard": 0.9, "beta_easy": 3.0}
    turned = objective.controlled({"schedule": state})
    assert turned.advantage.triggers.threshold == turned.marks["second_chance"].triggers.threshold == 0.7
    assert turned.advantage.alpha_hard == 0.9
    assert turned.regularisers["kl"].beta_easy == 3.0
    assert objective.controlled({"schedule": DifficultySchedule().start()}) == objective


def test_marks_reach_the_loss_of_the_sample_they_belong_to(token_stats):
    """Two equal responses of different difficulty: the loss is the two betas times one KL."""
    marks = {"difficulty": torch.tensor([0.0, 2.0]), "second_chance": torch.ones(2)}
    stats = token_stats([[1], [1]], lp_ref=[[-0.4], [-0.4]], marks=marks)
    objective = Objective(
        advantage=GroupMean(),
        surrogate=Clipped(),
        aggregate=TokenMean(),
        marks={"difficulty": Difficulty(), "second_chance": SecondChance()},
        regularisers={"kl": DifficultyKl(coefficient=1.0, beta_easy=2.0, beta_hard=5.0)},
    )
    loss, _ = objective(stats, Counts(tokens=2, sequences=2, groups=2))
    assert loss.item() == pytest.approx(7.0 / 2 * (math.exp(-0.4) + 0.4 - 1))
    with pytest.raises(ValueError, match="DifficultyKl reads the mark 'second_chance', and `marks` has difficulty"):
        dataclasses.replace(objective, marks={"difficulty": Difficulty()})


def test_impossible_pieces_are_refused():
    for make in (
        lambda: EntropyTriggers(window=0),
        lambda: EntropyTriggers(quantile=1.5),
        lambda: DifficultySchedule(kl_target=0.0),
    ):
        with pytest.raises(ValueError, match="EntropyTriggers|DifficultySchedule"):
            make()
