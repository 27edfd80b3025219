import dataclasses

import numpy as np
import pytest
import torch

from learner.batch import (
    Share,
    Trained,
    counts_of,
    input_sequence,
    micro_batch,
    minibatches,
    outcomes_of,
    shares,
    trained_part,
)
from learner.forest import plant
from learner.messages import KeptTokens, TrainBatch
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


def test_what_outcomes_say_of_prompts_temperatures_and_entropies(make_sample):
    """Equal prompts share a number, whatever their group; one temperature or NaN; entropies of trained tokens alone."""
    rng = np.random.default_rng(0)
    samples = [
        make_sample(rng, 0, [1, 2], [3, 4, 5], 1.0, temperature=0.5),
        make_sample(rng, 0, [2, 1], [3, 4, 5], 1.0, temperature=np.array([1.0, 1.0, 2.0])),
        make_sample(rng, 9, [1, 2], [3, 4], 1.0, temperature=1.25),
    ]
    samples[1] = dataclasses.replace(samples[1], trained=np.array([True, True, False]))
    outcomes = outcomes_of(samples)
    assert outcomes.prompts.tolist() == [0, 1, 0]
    assert outcomes.heat.tolist() == [0.5, 1.0, 1.25]
    assert [len(one) for one in outcomes.entropies] == [3, 2, 2]
    assert outcomes.entropies[1].tolist() == samples[1].entropies[:2].tolist()
    mixed = dataclasses.replace(samples[1], trained=None)
    assert outcomes_of([mixed]).heat.isnan().all()


def test_a_part_keeps_what_belongs_to_its_samples(make_batch):
    objective = dataclasses.replace(OBJECTIVE, marks={"reward": lambda outcomes: outcomes.rewards}, filters={})
    trained = trained_part(make_batch(groups=3), objective)
    part = trained.part(np.array([7, 2]))
    assert part.samples == (trained.samples[7], trained.samples[2])
    assert part.advantages.tolist() == trained.advantages[[7, 2]].tolist()
    assert part.marks["reward"].tolist() == [trained.samples[7].reward, trained.samples[2].reward]


def test_a_batch_without_samples_trains_nothing():
    assert trained_part(TrainBatch(step=0, samples=()), OBJECTIVE).samples == ()


def test_context_is_in_no_count_and_nothing_after_the_last_trained_token_is_computed(make_sample):
    """Of tokens T c T c c the first and third are trained: length 2, and the input ends before the third."""
    rng = np.random.default_rng(0)
    sample = make_sample(rng, 0, [8, 9], [1, 2, 3, 4, 5], 1.0)
    sample = dataclasses.replace(sample, trained=np.array([True, False, True, False, False]))
    other = make_sample(rng, 0, [8, 9], [7], 0.0)
    assert input_sequence(sample).tolist() == [8, 9, 1, 2]
    assert dataclasses.astuple(counts_of([sample, other])) == (3, 2, 1)
    assert outcomes_of([sample, other]).lengths.tolist() == [2, 1]
    micro = micro_batch(
        Trained(samples=(sample, other), advantages=np.array([1.0, -1.0])),
        Share(indices=(0, 1), live=True),
        forest_layout=True,
        device=torch.device("cpu"),
    )
    assert micro.mask.tolist() == [[True, False, True, False, False], [True] + [False] * 4]
    assert micro.advantage.tolist() == [[1, 0, 1, 0, 0], [-1, 0, 0, 0, 0]]
    assert sorted(micro.picks.tokens.tolist()) == [1, 3, 7]


def test_a_response_the_policy_had_no_part_in_leaves_its_group(make_sample):
    """Its reward is in no mean: of rewards 1, 0 and (context only) 1, the advantages are 1/2 and -1/2."""
    rng = np.random.default_rng(0)
    samples = [make_sample(rng, 3, [1], [2, 3], reward) for reward in (1.0, 0.0, 1.0)]
    samples[2] = dataclasses.replace(samples[2], trained=np.array([False, False]), temperatures=np.zeros(2, np.float32))
    trained = trained_part(TrainBatch(step=0, samples=tuple(samples)), OBJECTIVE)
    assert trained.samples == tuple(samples[:2])
    assert trained.advantages.tolist() == [0.5, -0.5]
    assert trained_part(TrainBatch(step=0, samples=(samples[2],)), OBJECTIVE).samples == ()


def test_tokens_share_a_row_of_the_head_only_where_they_were_drawn_alike(make_sample):
    """Same prefix, temperature and kept tokens share one row; another temperature or kept set has a row of its own."""
    rng = np.random.default_rng(0)

    def sample(token, temperature, kept):
        one = make_sample(rng, 0, [5, 6], [token], 0.0, temperature=temperature)
        if kept is not None:
            kept = KeptTokens(ids=np.array(kept, np.int32), counts=np.array([len(kept)], np.int32))
        return dataclasses.replace(one, kept=kept)

    draws = [
        (3, 1.0, [3, 4]),
        (4, 1.0, [3, 4]),
        (4, 1.0, [4]),
        (4, 0.5, [3, 4]),
        (9, 1.0, []),
        (8, 1.0, None),
    ]
    samples = tuple(sample(*draw) for draw in draws)
    micro = micro_batch(
        Trained(samples=samples, advantages=np.zeros(6)),
        Share(indices=tuple(range(6)), live=True),
        forest_layout=True,
        device=torch.device("cpu"),
    )
    picks = micro.picks
    assert len(picks.row_nodes) == 4
    ends = picks.kept.counts.cumsum(0).tolist()
    seen = {}
    for place, row, token in zip(micro.places.tolist(), picks.rows.tolist(), picks.tokens.tolist(), strict=True):
        kept = picks.kept.ids[ends[row] - int(picks.kept.counts[row]) : ends[row]].tolist()
        seen[place] = (token, picks.temperatures[row].item(), kept)
    assert [seen[place] for place in range(6)] == [(token, heat, kept or []) for token, heat, kept in draws]
