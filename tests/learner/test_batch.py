import dataclasses

import numpy as np
import pytest

from learner.batch import counts_of, input_sequence, minibatches, shares, trained_part
from learner.forest import plant
from learner.messages import TrainBatch
from learner.objective import Objective
from learner.objective.advantage import GroupMean
from learner.objective.aggregate import TokenMean
from learner.objective.filters import MixedGroupsOnly
from learner.objective.surrogate import Clipped

OBJECTIVE = Objective(
    advantage=GroupMean(divide_by_std=False),
    surrogate=Clipped(),
    aggregate=TokenMean(),
    filters={"mixed": MixedGroupsOnly()},
)


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("budget", [1, 30, 10_000])
def test_every_sample_is_trained_once_and_no_rank_waits(ranks, budget, make_batch):
    """Live micro-batches hold each sample exactly once, respect the budget, and are equally many on every rank."""
    samples = make_batch(groups=3, size=5).samples
    plan = shares(samples, ranks, budget)
    assert len(plan) == ranks
    assert len({len(micros) for micros in plan}) == 1
    live = [share for micros in plan for share in micros if share.live]
    assert sorted(index for share in live for index in share.indices) == list(range(len(samples)))
    for share in live:
        computed = len(plant([input_sequence(samples[index]) for index in share.indices]))
        assert computed <= budget or len({input_sequence(samples[i]).tobytes() for i in share.indices}) == 1


def test_ranks_get_similar_amounts_of_work(make_batch):
    """No rank computes more than the ideal share plus one sequence and the prefix it has to repeat."""
    samples = make_batch(groups=16, size=8).samples
    total = len(plant([input_sequence(sample) for sample in samples]))
    longest = max(len(input_sequence(sample)) for sample in samples)
    for micros in shares(samples, 4, 10_000):
        (share,) = micros
        work = len(plant([input_sequence(samples[index]) for index in share.indices]))
        assert work <= total / 4 + 2 * longest


def test_a_rank_without_samples_idles(make_batch):
    """With one sample and two ranks, one of them repeats it without training it."""
    plan = shares(make_batch(groups=1, size=1).samples, 2, 100)
    assert sorted(micros[0].live for micros in plan) == [False, True]


def test_filters_and_advantages_see_whole_groups(make_batch):
    """Of an all-right, a mixed and an all-wrong group the mixed one stays, with advantages around its own mean."""
    batch = make_batch(groups=3, size=4, rewards=[1, 1, 1, 1, 1, 0, 0, 1, 0, 0, 0, 0])
    trained = trained_part(batch, OBJECTIVE)
    assert [sample.group for sample in trained.samples] == [1] * 4
    # The fixture repeats the first sample as the last, so the rewards are 1 0 0 1.
    assert trained.advantages.tolist() == pytest.approx([0.5, -0.5, -0.5, 0.5])


def test_minibatches_are_whole_groups(make_batch):
    trained = trained_part(make_batch(groups=5, size=4, rewards=[1, 0, 0, 1] * 5), OBJECTIVE)
    parts = minibatches(trained, 2)
    assert [sorted({trained.samples[i].group for i in part}) for part in parts] == [[0, 1, 2], [3, 4]]
    assert sum(map(len, parts)) == 20
    assert len(minibatches(trained, 9)) == 5  # never an empty step


def test_counts_by_hand(make_sample):
    rng = np.random.default_rng(0)
    samples = [make_sample(rng, g, [1, 2], [3] * n, 1.0) for g, n in ((0, 1), (0, 4), (7, 2))]
    assert dataclasses.astuple(counts_of(samples)) == (7, 3, 2)


def test_a_batch_without_samples_trains_nothing():
    assert trained_part(TrainBatch(step=0, samples=()), OBJECTIVE).samples == ()
