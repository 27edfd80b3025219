"""The search: steps of expansion and recombination until the budget is spent; the best solution is the response.

pool --parent--> draw paragraphs behind it ------.
  ^  --parents-> recombine, nothing is drawn ----+--> judge --> pool ... --> best complete --> stitch --> Rollout
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rollout.messages import FinishReason, Rollout
from rollout.strategies.bes.judge import Certainty, Judge
from rollout.strategies.bes.paragraphs import (
    BLANK_LINE,
    Paragraph,
    Row,
    combine,
    crossover,
    delete,
    paragraph_length,
    settle,
    translocate,
)
from rollout.strategies.bes.pool import Node, Pool
from rollout.strategies.passage import NOTHING, Passage
from rollout.strategies.samples import Draws, SampleBySample, no_plan
from rollout.strategies.strategy import Circumstances, Resources, RolloutSource


@dataclass(frozen=True, kw_only=True)
class Evolution:
    """Each response is the best of a pool of solutions that the policy extended and that were mixed with each other.

    Rule    each step draws u ~ U(0, 1): below `combine` combine, then delete, translocate, crossover; above them, or
            where the operator is not possible, expand a parent by k ~ U{1..most_paragraphs} paragraphs. Parents are
            drawn by softmax (bes/pool.py) at a temperature that falls from 2 to 1 with the budget spent.
    Source  BES, arXiv:2605.28814, grade A-code (Embodied-Minds-Lab/BES bes_agent_loop.py) for operators, probabilities
            and weights; as in its RL loop, only what the policy draws costs budget. Ours: one pool per response, flat
            marks for the goal tree (bes/judge.py), a finished solution is not expanded, full marks end the search.
            The release draws at T = 0.6 and top-p 0.95: that is the run's `temperature` here.
    Units   budget: paragraphs drawn for one response.  chunk: tokens asked for at a time; what lies behind the last
            paragraph wanted is thrown away.  The four probabilities are of a step.
    Traps   the policy drew a token of the result where it stands behind the prefix it was drawn behind: beginnings
            passed on whole stay `policy_drawn`, moved paragraphs and all behind them up to the next expansion do not.
            Even so the response was chosen for its marks, which no importance ratio knows of. A response costs up to
            `budget` paragraphs: 200 times a plain one of one paragraph.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    judge: Judge = Certainty()
    budget: int = 200
    combine: float = 0.10
    delete: float = 0.05
    translocate: float = 0.075
    crossover: float = 0.075
    most_paragraphs: int = 5
    chunk: int = 64

    def __post_init__(self) -> None:
        shares = (self.combine, self.delete, self.translocate, self.crossover)
        if not (min(shares) >= 0.0 and sum(shares) < 1.0):
            raise ValueError(
                "Evolution.combine, delete, translocate and crossover are probabilities whose sum is below 1, so that"
                f" something is drawn, got {', '.join(map(str, shares))}"
            )
        for name in ("budget", "most_paragraphs", "chunk"):
            if getattr(self, name) < 1:
                raise ValueError(f"Evolution.{name} is at least 1, got {getattr(self, name)}")

    def check(self, run: Circumstances) -> None:
        run.refuse_learned_temperature("bes")

    def check_files(self) -> None:
        pass

    def over(self, resources: Resources) -> RolloutSource:
        async def sample(draws: Draws, plan: None) -> Rollout:
            search = _Search(self, resources, draws)
            await search.run()
            return search.result()

        return SampleBySample(sample, no_plan, resources.deadline_s)

    def temperature(self, spent: int) -> float:
        """Of the choice of parents: 2 with nothing spent, 1 before the last two."""
        return 2.0 - min(spent / max(self.budget - 2, 1), 1.0)


class _Search:
    """One response's pool."""

    def __init__(self, rule: Evolution, resources: Resources, draws: Draws) -> None:
        self._rule = rule
        self._resources = resources
        self._draws = draws
        self._separator = Passage.forced(resources.encode(BLANK_LINE))
        self._pool = Pool(np.random.default_rng(zlib.crc32(f"{draws.request.group_id}/{draws.index}".encode())))
        self._spent = 0
        self._add(())

    async def run(self) -> None:
        while self._spent < self._rule.budget and not self._draws.aborted and not self._full_marks():
            temperature = self._rule.temperature(self._spent)
            row = self._recombined(temperature)
            if row is None:
                parent = self._pool.to_expand(temperature)
                row = (*parent.row, *await self._expansion(parent))
                if row == parent.row:  # aborted before its first token
                    continue
                parent.childless = False
            self._add(row)

    def result(self) -> Rollout:
        best = self._pool.best()
        finish = FinishReason.STOP if best.row and best.row[-1].ends else FinishReason.LENGTH
        return self._draws.response(
            best.passage, FinishReason.ABORT if self._draws.aborted else finish, self._resources
        )

    def _full_marks(self) -> bool:
        best = self._pool.best()
        return best.complete and best.score >= 1.0

    def _recombined(self, temperature: float) -> Row | None:
        """What this step's operator makes of its parents; None where it is to be an expansion."""
        rule, random = self._rule, self._pool.random
        borders = np.cumsum([rule.combine, rule.delete, rule.translocate, rule.crossover])
        operator = int(np.searchsorted(borders, random.random(), side="right"))
        if operator == len(borders):
            return None
        if operator == 1:
            parent = self._pool.to_delete_from(temperature)
            parents = () if parent is None else (parent,)
            row = None if parent is None else delete(parent.row, random)
        else:
            parents = self._pool.pair(temperature) or ()
            recombine = {0: combine, 2: translocate, 3: crossover}[operator]
            row = recombine(parents[0].row, parents[1].row, random) if parents else None
        if row is None:
            return None
        row = settle(row, [parent.row for parent in parents], self._separator)
        if _tokens(row) > self._draws.request.max_tokens:
            return None
        for parent in parents:
            parent.childless = False
        return row

    async def _expansion(self, parent: Node) -> Sequence[Paragraph]:
        """Up to k paragraphs that the policy draws behind `parent`."""
        wanted = int(self._pool.random.integers(1, self._rule.most_paragraphs + 1))
        request, before = self._draws.request, parent.passage
        found: list[Paragraph] = []
        rest = NOTHING  # drawn, but not yet a whole paragraph
        while True:
            taken = Passage.join(before, *(paragraph.passage for paragraph in found), rest)
            room = request.max_tokens - len(taken)
            drawn = await self._draws.one(
                self._resources.policy,
                prompt_ids=(*request.prompt_ids, *taken.ids.tolist()),
                max_tokens=min(self._rule.chunk, room),
            )
            rest = Passage.join(rest, Passage.of(drawn))
            while len(found) < wanted and (length := paragraph_length(rest.ids, self._resources.decode)) is not None:
                found.append(Paragraph(passage=rest[:length], ends=_ends(drawn) and length == len(rest)))
                rest = rest[length:]
                self._spent += 1
            if len(found) == wanted:
                return found
            if drawn.finish_reason is not FinishReason.LENGTH or len(drawn.response_ids) == room:
                if len(rest):
                    found.append(Paragraph(passage=rest, ends=_ends(drawn)))
                    self._spent += 1
                return found

    def _add(self, row: Row) -> None:
        passage = Passage.join(*(paragraph.passage for paragraph in row))
        marks = self._rule.judge(self._resources.decode(passage.ids.tolist()), passage)
        complete = bool(row) and (row[-1].ends or len(passage) >= self._draws.request.max_tokens)
        self._pool.nodes.append(Node(row=row, marks=np.asarray(marks, np.float64), complete=complete))


def _ends(drawn: Rollout) -> bool:
    return drawn.finish_reason is FinishReason.STOP


def _tokens(row: Row) -> int:
    return sum(len(paragraph.passage) for paragraph in row)
