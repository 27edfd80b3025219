"""Every rank gets about the same work, though lengths have a long tail and attention costs more the more it sees."""

import itertools

import numpy as np
import pytest

from learner.balance import context_cost, portions, work_of
from learner.forest import lexicographic_order, plant, shared_prefix

HIDDEN = 2048


def dealt(sequences: list[np.ndarray], ranks: int, cost: float) -> list[list[np.ndarray]]:
    """The sequences of each rank."""
    ordered = [sequences[index] for index in lexicographic_order(sequences)]
    shared = [0, *itertools.starmap(shared_prefix, itertools.pairwise(ordered))]
    return [[ordered[place] for place in places] for places in portions(list(map(len, ordered)), shared, ranks, cost)]


def work(sequences: list[np.ndarray], cost: float) -> float:
    """Of every distinct prefix, one after the other."""
    positions = plant(sequences).positions if sequences else np.empty(0)
    return (1.0 + cost * positions).sum()


def long_tailed(seed: int, groups: int, size: int) -> list[np.ndarray]:
    """Prompts of 100 to 400 tokens, responses of some hundred tokens and a few of up to sixteen thousand."""
    rng = np.random.default_rng(seed)
    sequences = []
    for _ in range(groups):
        prompt = rng.integers(0, 1000, rng.integers(100, 400))
        median = rng.normal(6.5, 0.8)
        for _ in range(size):
            length = int(np.clip(rng.lognormal(median, 0.8), 1, 16384))
            sequences.append(np.concatenate([prompt, rng.integers(0, 1000, length)]))
    return sequences


@pytest.mark.parametrize("ranks", [2, 4, 8])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_long_tail_is_spread_over_the_ranks(seed, ranks):
    """The most burdened of 2, 4 or 8 ranks has at most 1.1 of the mean work, and prompts are hardly repeated."""
    sequences, cost = long_tailed(seed, groups=32, size=8), context_cost(HIDDEN)
    works = [work(mine, cost) for mine in dealt(sequences, ranks, cost)]
    assert max(works) <= 1.1 * np.mean(works)
    assert sum(works) <= 1.05 * work(sequences, cost)


def test_every_sequence_is_dealt_once():
    sequences = long_tailed(2, groups=3, size=5)
    mine = [one.tobytes() for rank in dealt(sequences, 4, 0.0) for one in rank]
    assert sorted(mine) == sorted(one.tobytes() for one in sequences)


def test_what_attends_further_weighs_more():
    """By tokens a sequence of 100 wants one of 40 beside it; where a token attends for 1/50 a step, it is enough."""
    rng = np.random.default_rng(0)
    sequences = [rng.integers(0, 9000, length) for length in (100, 40, 40, 40, 40)]
    assert work_of(np.array(100.0), 0.02) == pytest.approx(sum(1 + 0.02 * position for position in range(100)))
    by_work, by_tokens = (sorted(sorted(map(len, mine)) for mine in dealt(sequences, 2, cost)) for cost in (0.02, 0.0))
    assert by_work == [[40, 40, 40, 40], [100]]
    assert by_tokens == [[40, 40, 40], [40, 100]]


def test_what_is_mostly_shared_stays_together():
    """Two groups whose responses differ in the last token only: a rank each, nothing is computed twice."""
    rng = np.random.default_rng(0)
    sequences = [np.append(stem, last) for stem in rng.integers(0, 9000, (2, 200)) for last in range(8)]
    mine = dealt(sequences, 2, 0.0)
    assert [work(one, 0.0) for one in mine] == [208.0, 208.0]


def test_fewer_sequences_than_ranks_leave_some_without():
    assert sorted(map(len, dealt([np.arange(5), np.arange(9, 12)], 3, 0.0))) == [0, 1, 1]
