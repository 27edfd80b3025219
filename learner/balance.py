"""A fair share of the work for every rank, whatever lengths samples have. numpy only.

    sequences in lexicographic order --cut--> runs of neighbours --dealt out, the dearest first--> places of each rank

Work is counted in tokens: one for a token's way through the matrices of the model, and for what it attends to, a
fraction that grows with its position. Neighbours share prefixes, which a run computes once; the first sequence of a run
computes the whole of its own. Long runs repeat little and short runs balance well, so several lengths are tried.
"""

import heapq
from collections.abc import Sequence

import numpy as np

RUNS_PER_RANK = (1, 2, 4, 8, 16, 32)


def context_cost(hidden_size: int) -> float:
    """Work of attending to one token, in units of a token's work in the matrices of a layer.

    Rule    4 h against 24 h^2 operations in a forward pass: attention's two products, and 12 h^2 weights of a layer.
    Source  ours; layers of other shapes differ by less than a factor of two.
    """
    return 1.0 / (6.0 * hidden_size)


def work_of(lengths: np.ndarray, context_cost: float) -> np.ndarray:
    """float64: work of computing the first `lengths` tokens of sequences."""
    return lengths + context_cost * lengths * (lengths - 1) / 2.0


def portions(lengths: Sequence[int], shared: Sequence[int], ranks: int, context_cost: float) -> list[np.ndarray]:
    """For each rank the places, rising, of the sequences it computes.

    lengths: tokens of each sequence, in lexicographic order; shared: how many of them the one before begins with too.
    """
    if ranks == 1:
        return [np.arange(len(lengths))]
    repeated = work_of(np.asarray(shared, np.float64), context_cost)  # by the first of a run
    fresh = work_of(np.asarray(lengths, np.float64), context_cost) - repeated
    plans = [_dealt(_runs(fresh, repeated, fresh.sum() / (ranks * runs)), ranks) for runs in RUNS_PER_RANK]
    _, dealt = min(plans, key=lambda plan: plan[0])
    return [np.array(sorted(places), np.int64) for places in dealt]


def _runs(fresh: np.ndarray, repeated: np.ndarray, limit: float) -> list[tuple[float, list[int]]]:
    """(work, places) of neighbours whose work together stays within `limit`; a dearer one is a run by itself."""
    runs: list[tuple[float, list[int]]] = []
    for place, (new, again) in enumerate(zip(fresh, repeated, strict=True)):
        if runs and runs[-1][0] + new <= limit:
            work, places = runs.pop()
            runs.append((work + new, [*places, place]))
        else:
            runs.append((new + again, [place]))
    return runs


def _dealt(runs: list[tuple[float, list[int]]], ranks: int) -> tuple[float, list[list[int]]]:
    """The work of the most burdened rank, and the places of each: every run goes to whoever has least so far."""
    loads = [(0.0, rank) for rank in range(ranks)]
    places: list[list[int]] = [[] for _ in range(ranks)]
    for work, run in sorted(runs, key=lambda one: -one[0]):
        load, rank = heapq.heappop(loads)
        places[rank] += run
        heapq.heappush(loads, (load + work, rank))
    return max(loads)[0], places
