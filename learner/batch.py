"""From a train batch to micro-batches: advantages, filters, and a fair share of the work for every rank.

    TrainBatch --outcomes--> advantages, kept samples           (the same on every rank)
               --sort--> neighbours share prefixes --cut--> ranks --cut--> micro-batches of at most N computed tokens

Tokens that the policy did not draw are read by the transformer, so that later tokens see them, and nothing else: they
are in no mask, count or statistic. A sample of such tokens alone is left out before its group is looked at.
Pure: any rank can work out what every rank does, so all take the same number of micro-batches and none waits.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from learner.attention import Layout, layout_of
from learner.balance import portions
from learner.forest import lexicographic_order, plant, shared_prefix
from learner.head import Picks
from learner.messages import TrainBatch, TrainSample
from learner.objective import Counts, Objective, Outcomes
from rollout.draw.truncation import KeptSets


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """The samples that are trained, in the order of the batch, with their advantages and marks (float64 [sample]).

    `metrics`: what the objective reports of the whole batch, also of samples that are not trained.
    `answers`: int64 [sample] the response token with which the answer begins; None unless a piece looks there.
    """

    samples: tuple[TrainSample, ...]
    advantages: np.ndarray
    marks: Mapping[str, np.ndarray] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    answers: np.ndarray | None = None

    def part(self, indices: np.ndarray) -> "Trained":
        """Some of the samples."""
        return Trained(
            samples=tuple(self.samples[index] for index in indices),
            advantages=self.advantages[indices],
            marks={name: values[indices] for name, values in self.marks.items()},
            answers=None if self.answers is None else self.answers[indices],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one rank does in one optimizer step: indices into `Trained.samples` per micro-batch.

    An idle micro-batch (`live` false) repeats a sample without training it: all ranks make the same collective calls.
    """

    indices: tuple[int, ...]
    live: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Actions:
    """What a learned temperature head did at the tokens of a micro-batch; what it chose is their `temperature`.

    changes     bool    [seq, tok] it drew a new temperature
    lp_sampler  float32 [seq, tok] nats of its action, as recorded
    """

    changes: Tensor
    lp_sampler: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Taught:
    """The same responses after prompts with feedback in them, for a policy that teaches itself.

    micro  of the samples that have feedback
    nodes  int64 [pick] where each pick of the micro-batch itself is among the nodes of `micro`, -1 where it is not
    """

    micro: "MicroBatch"
    nodes: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """Tensors of one forward pass. Response tokens are right-padded to [seq, tok]; see TokenStats for the units.

    inputs     what the transformer gets: tokens [1, node] with positions and layout, or tokens [row, position]
    node_rows  int64 [node] where each node is in the transformer's flattened output, None where it is that output
    picks      which rows of the head give which token
    places     int64 [pick] index of each pick in the flattened [seq, tok]
    marks      float32 [seq] by name
    actions    the temperature head's, None where a sample has none
    taught     None where no sample has feedback
    members    int64 [seq] which sample of `Trained` each row is
    answers    int64 [seq] the node that predicts the first token of the answer; None unless a piece looks there
    """

    tokens: Tensor
    positions: Tensor | None
    layout: Layout | None
    node_rows: Tensor | None
    picks: Picks
    places: Tensor
    mask: Tensor
    group: Tensor
    advantage: Tensor
    lp_sampler: Tensor
    temperature: Tensor
    marks: Mapping[str, Tensor]
    actions: Actions | None
    taught: Taught | None = None
    members: Tensor | None = None
    answers: Tensor | None = None


def outcomes_of(samples: Sequence[TrainSample]) -> Outcomes:
    prompts: dict[bytes, int] = {}
    heats = [np.unique(sample.temperatures[sample.trained_places]) for sample in samples]
    return Outcomes(
        rewards=torch.tensor([sample.reward for sample in samples], dtype=torch.float64),
        unshaped=torch.tensor([sample.unshaped for sample in samples], dtype=torch.float64),
        groups=torch.tensor([sample.group for sample in samples]),
        lengths=torch.tensor([len(sample.trained_places) for sample in samples]),
        prompts=torch.tensor([prompts.setdefault(s.prompt_ids.tobytes(), len(prompts)) for s in samples]),
        heat=torch.tensor([float(heat[0]) if len(heat) == 1 else math.nan for heat in heats], dtype=torch.float64),
        entropies=tuple(torch.from_numpy(s.entropies[s.trained_places].astype(np.float64)) for s in samples),
    )


def trained_part(batch: TrainBatch, objective: Objective) -> Trained:
    """Apply the objective's advantage and filters; both see whole groups."""
    samples = [sample for sample in batch.samples if len(sample.trained_places)]
    if not samples:
        return Trained(samples=(), advantages=np.empty(0))
    outcomes = outcomes_of(samples)
    advantages = objective.advantage(outcomes)
    outcomes = dataclasses.replace(outcomes, advantages=advantages)
    kept = objective.keep(outcomes)
    return Trained(
        samples=tuple(sample for sample, keep in zip(samples, kept.tolist(), strict=True) if keep),
        advantages=advantages[kept].numpy(),
        marks={name: piece(outcomes)[kept].numpy() for name, piece in objective.marks.items()},
        metrics=objective.measured(outcomes),
    )


def minibatches(trained: Trained, count: int) -> list[np.ndarray]:
    """Indices of the samples of each optimizer step: whole groups, in order of group."""
    groups = np.array([sample.group for sample in trained.samples])
    parts = np.array_split(np.unique(groups), count)
    return [np.flatnonzero(np.isin(groups, part)) for part in parts if len(part)]


def counts_of(samples: Sequence[TrainSample]) -> Counts:
    return Counts(
        tokens=sum(len(sample.trained_places) for sample in samples),
        sequences=len(samples),
        groups=len({sample.group for sample in samples}),
    )


def input_sequence(sample: TrainSample) -> np.ndarray:
    """What the transformer reads: prompt and response up to the last trained token, which is only predicted."""
    return np.concatenate([sample.prompt_ids, sample.response_ids[: sample.trained_places[-1]]])


def shares(samples: Sequence[TrainSample], ranks: int, budget: int, context_cost: float = 0.0) -> list[list[Share]]:
    """For each rank its micro-batches, at most `budget` computed tokens each (a longer single sample goes alone).

    `context_cost` is what attending costs, see learner/balance.py.
    """
    sequences = [input_sequence(sample) for sample in samples]
    order = lexicographic_order(sequences)
    ordered = [sequences[index] for index in order]
    shared = [0, *(shared_prefix(before, this) for before, this in itertools.pairwise(ordered))]
    dealt = portions(list(map(len, ordered)), shared, ranks, context_cost)
    plan = [
        [Share(indices=tuple(order[at] for at in part), live=True) for part in _cut(places, ordered, budget)]
        for places in dealt
    ]
    longest = max(map(len, plan))
    idle = Share(indices=(min(order, key=lambda index: len(sequences[index])),), live=False)
    return [live + [idle] * (longest - len(live)) for live in plan]


def _cut(places: np.ndarray, ordered: list[np.ndarray], budget: int) -> list[list[int]]:
    parts: list[list[int]] = []
    used = 0
    for place in places:
        fresh = len(ordered[place]) - (shared_prefix(ordered[parts[-1][-1]], ordered[place]) if parts else 0)
        if not parts or used + fresh > budget:
            parts.append([])
            used = len(ordered[place])  # the first of a micro-batch computes its whole prefix
        else:
            used += fresh
        parts[-1].append(place)
    return parts


def micro_batch(trained: Trained, share: Share, *, forest_layout: bool, device: torch.device) -> MicroBatch:
    """The tensors of one share."""
    samples = [trained.samples[index] for index in share.indices]
    forest = plant([input_sequence(sample) for sample in samples])
    places = [sample.trained_places for sample in samples]
    mask = np.zeros((len(samples), max(map(len, (sample.response_ids for sample in samples)))), bool)
    for row, trained_places in zip(mask, places, strict=True):
        row[trained_places] = True

    def of_trained(arrays: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate([array[at] for array, at in zip(arrays, places, strict=True)])

    def padded(arrays: Sequence[np.ndarray], fill: float) -> Tensor:
        values = np.full(mask.shape, fill, np.float32)
        values[mask] = of_trained(arrays)
        return torch.from_numpy(values).to(device)

    nodes = [path[len(s.prompt_ids) - 1 + at] for path, s, at in zip(forest.paths, samples, places, strict=True)]
    picks, order = _picks(
        np.concatenate(nodes),
        of_trained([sample.temperatures for sample in samples]).astype(np.float32),
        of_trained([sample.response_ids for sample in samples]),
        _kept_ids(samples, places),
        device,
    )
    if forest_layout:
        tokens, positions = (torch.from_numpy(array)[None].to(device) for array in (forest.tokens, forest.positions))
        layout, node_rows = layout_of(forest, device), None
    else:
        rows = [forest.paths[index] for index, _ in forest.segments]
        width = max(map(len, rows))
        tokens = torch.zeros(len(rows), width, dtype=torch.int64)
        fresh = []
        for row, (path, (_, start)) in enumerate(zip(rows, forest.segments, strict=True)):
            tokens[row, : len(path)] = torch.from_numpy(forest.tokens[path])
            fresh.append(np.arange(row * width + start, row * width + len(path)))
        tokens, positions, layout = tokens.to(device), None, None
        node_rows = torch.from_numpy(np.concatenate(fresh)).to(device)
    advantages = trained.advantages[list(share.indices)].astype(np.float32)
    live = torch.from_numpy(mask & share.live).to(device)
    return MicroBatch(
        tokens=tokens,
        positions=positions,
        layout=layout,
        node_rows=node_rows,
        picks=picks,
        places=torch.from_numpy(np.flatnonzero(mask)[order]).to(device),
        mask=live,
        group=torch.tensor([sample.group for sample in samples], device=device),
        advantage=torch.from_numpy(advantages).to(device)[:, None] * live,
        lp_sampler=padded([sample.sampler_logprobs for sample in samples], 0.0),
        temperature=padded([sample.temperatures for sample in samples], 1.0),
        marks={
            name: torch.from_numpy(values[list(share.indices)].astype(np.float32)).to(device)
            for name, values in trained.marks.items()
        },
        actions=None
        if any(sample.head is None for sample in samples)
        else Actions(
            changes=padded([sample.head.changes for sample in samples], 0.0).bool(),
            lp_sampler=padded([sample.head.logprobs for sample in samples], 0.0),
        ),
        taught=_taught(samples, np.flatnonzero(mask)[order], mask.shape, forest_layout, device),
        members=torch.tensor(share.indices, device=device),
        answers=None if trained.answers is None else _answer_nodes(forest.paths, samples, trained, share).to(device),
    )


def _answer_nodes(
    paths: Sequence[np.ndarray], samples: Sequence[TrainSample], trained: Trained, share: Share
) -> Tensor:
    at = [len(sample.prompt_ids) - 1 + trained.answers[i] for sample, i in zip(samples, share.indices, strict=True)]
    return torch.tensor([int(path[place]) for path, place in zip(paths, at, strict=True)])


def _taught(
    samples: Sequence[TrainSample],
    places: np.ndarray,
    shape: tuple[int, int],
    forest_layout: bool,
    device: torch.device,
) -> Taught | None:
    rows = [row for row, sample in enumerate(samples) if sample.teacher_prompt_ids is not None]
    if not rows:
        return None
    told = tuple(
        dataclasses.replace(
            samples[row], prompt_ids=samples[row].teacher_prompt_ids, teacher_prompt_ids=None, kept=None
        )
        for row in rows
    )
    whole = Share(indices=tuple(range(len(told))), live=True)
    micro = micro_batch(
        Trained(samples=told, advantages=np.zeros(len(told))), whole, forest_layout=forest_layout, device=device
    )
    theirs = torch.full((micro.mask.numel(),), -1, device=device)
    theirs[micro.places] = micro.picks.row_nodes[micro.picks.rows]
    nodes = torch.full(shape, -1, device=device)
    nodes[rows, : micro.mask.shape[1]] = theirs.view(micro.mask.shape)
    return Taught(micro=micro, nodes=nodes.flatten()[torch.from_numpy(places).to(device)])


def _kept_ids(samples: Sequence[TrainSample], places: Sequence[np.ndarray]) -> list[np.ndarray] | None:
    """The kept tokens of each trained token, none listed where nothing was cut; None where no sample was truncated."""
    if all(sample.kept is None for sample in samples):
        return None
    found = []
    for sample, at in zip(samples, places, strict=True):
        if sample.kept is None:
            found += [np.empty(0, np.int32)] * len(at)
        else:
            ends = np.cumsum(sample.kept.counts)
            found += [sample.kept.ids[ends[t] - sample.kept.counts[t] : ends[t]] for t in at]
    return found


def _picks(
    nodes: np.ndarray, temperatures: np.ndarray, tokens: np.ndarray, kept: list[np.ndarray] | None, device: torch.device
) -> tuple[Picks, np.ndarray]:
    """One row of the head per distinct (node, temperature, kept tokens).

    The picks are ordered by row; the order that does it comes second.
    """
    keys = nodes.astype(np.int64) << 32 | temperatures.view(np.uint32)
    distinct, rows = np.unique(keys, return_inverse=True)
    sets = None
    if kept is not None:  # samples of other weights, or rounded otherwise, may keep others at the same place
        numbers: dict[bytes, int] = {}
        number = np.array([numbers.setdefault(ids.tobytes(), len(numbers)) for ids in kept])
        _, first, rows = np.unique(rows * len(numbers) + number, return_index=True, return_inverse=True)
        distinct = keys[first]
        listed = [kept[pick] for pick in first]
        sets = KeptSets(
            ids=torch.from_numpy(np.concatenate(listed)).to(device),
            counts=torch.tensor([len(ids) for ids in listed], device=device),
        )
    order = rows.argsort(kind="stable")
    row_temperatures = (distinct & 0xFFFFFFFF).astype(np.uint32).view(np.float32)
    tempered = None if (row_temperatures == 1.0).all() else torch.from_numpy(row_temperatures).to(device)
    picks = Picks(
        row_nodes=torch.from_numpy(distinct >> 32).to(device),
        temperatures=tempered,
        rows=torch.from_numpy(rows[order]).to(device),
        tokens=torch.from_numpy(tokens[order].astype(np.int64)).to(device),
        kept=sets,
    )
    return picks, order
