"""Whether to speculate, and how far: from what was accepted, how many requests run, and what a step costs.

    counts of drafts judged and accepted, by position --AcceptanceMeter--> conditional acceptance a_1, a_2, ...
    seconds of a step with K drafts, by a model or measured ---Cost---.
    running requests ---------------------------------------------------+--DraftLengthChooser--> K (0: no speculation)

Pure: no clock and no engine. Tokens come out the same whatever K is (verify.py); only their rate changes.
"""

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

_OPTIMISM = (
    1.0,
    0.5,
)  # weight in drafts, and acceptance, of what is believed of the first position before any was judged


def expected_tokens(acceptance: Sequence[float]) -> float:
    """Mean tokens per request and step with K = len(acceptance) drafts.

    Rule    1 + sum_j prod_{i <= j} a_i: the drawn token, and each draft that passed together with all before it.
    Source  Leviathan et al. 2023, arXiv:2211.17192 (for equal a_i: (1 - a^{K+1}) / (1 - a)); grade K.
    Units   acceptance: a_i in [0, 1], of drafts at position i whose predecessors passed.
    """
    total, passed = 1.0, 1.0
    for value in acceptance:
        passed *= value
        total += passed
    return total


@dataclass(kw_only=True)
class AcceptanceMeter:
    """Acceptance by position, of late: older steps fade.

    Rule    a_i = accepted_i / judged_i over steps weighted by 2^(-age / half_life), where draft i is judged if all
            before it passed; each position starts from one draft's worth of the estimate before it (the first: 1/2).
    Source  ours.
    Units   half_life: drafts judged at the first position.
    Traps   positions beyond the drafts ever made keep the estimate of the last position measured.
    """

    half_life: float = 2000.0
    _judged: list[float] = field(default_factory=list, init=False)
    _accepted: list[float] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        if not self.half_life > 0.0:
            raise ValueError(f"AcceptanceMeter.half_life is a number of drafts > 0, got {self.half_life}")

    def observe(self, judged: Sequence[int], accepted: Sequence[int]) -> None:
        """Counts since the last call, over all requests and steps, by position; verify.by_position counts them.

        judged[i]: requests that had a draft at position i and whose drafts before it all passed; accepted[i]: those
        whose draft i passed as well. Raises ValueError for counts that no step can give.
        """
        reached = [*judged[:1], *accepted]
        if len(judged) != len(accepted) or any(
            not 0 <= passed <= made <= before for made, passed, before in zip(judged, accepted, reached, strict=False)
        ):
            raise ValueError(
                "by position, accepted drafts cannot exceed judged ones nor those the ones accepted before, got"
                f" {list(accepted)} of {list(judged)}"
            )
        if not judged or judged[0] == 0:
            return
        fade = 0.5 ** (judged[0] / self.half_life)
        missing = [0.0] * (len(judged) - len(self._judged))
        self._judged = [fade * value for value in self._judged] + missing
        self._accepted = [fade * value for value in self._accepted] + missing
        for position, (made, passed) in enumerate(zip(judged, accepted, strict=True)):
            self._judged[position] += made
            self._accepted[position] += passed

    def conditional(self, length: int) -> list[float]:
        """a_1 .. a_length."""
        weight, belief = _OPTIMISM
        found = []
        for position in range(length):
            if position < len(self._judged):
                belief = (self._accepted[position] + weight * belief) / (self._judged[position] + weight)
            found.append(min(belief, 1.0))
        return found

    def state(self) -> dict[str, list[float]]:
        return {"judged": list(self._judged), "accepted": list(self._accepted)}

    def load(self, state: Mapping[str, Sequence[float]]) -> None:
        self._judged, self._accepted = list(state["judged"]), list(state["accepted"])


class Cost(Protocol):
    """What a step costs: `CostModel` by a formula, `step_cost.MeasuredSteps` by the clock."""

    def rate(self, requests: int, acceptance: Sequence[float]) -> float:
        """Tokens per second of one request, with len(acceptance) drafts a step."""


@dataclass(frozen=True, kw_only=True)
class CostModel:
    """Seconds of the parts of a step, measured on this machine.

    Rule    step(B, K) = target(B (K + 1)) + K draft(B) + overhead if K > 0
    Source  ours.
    Units   seconds. target, draft: {rows: seconds}, in between linear, beyond the last by the last slope, below the
            first constant. overhead: of a speculative step, whatever its size.
    Traps   with prefills in the step the target costs more rows than B (K + 1): measure at decode.
    """

    target: Mapping[int, float]
    draft: Mapping[int, float]
    overhead: float = 0.0

    def __post_init__(self) -> None:
        for name in ("target", "draft"):
            table = getattr(self, name)
            if not table or any(rows < 1 or not 0.0 <= s < math.inf for rows, s in table.items()):
                raise ValueError(f"CostModel.{name} maps rows >= 1 to seconds >= 0 and is not empty, got {table}")
        if all(seconds == 0.0 for seconds in self.target.values()):
            raise ValueError("CostModel.target is 0 s everywhere: a step of the target takes time")
        if not 0.0 <= self.overhead < math.inf:
            raise ValueError(f"CostModel.overhead is seconds >= 0, got {self.overhead}")

    def step_s(self, requests: int, drafts: int) -> float:
        """Seconds of one step of `requests` requests with `drafts` drafts each."""
        seconds = _at(self.target, requests * (drafts + 1))
        return seconds + drafts * _at(self.draft, requests) + self.overhead if drafts else seconds

    def rate(self, requests: int, acceptance: Sequence[float]) -> float:
        """Tokens per second of one request, with len(acceptance) drafts a step."""
        return expected_tokens(acceptance) / self.step_s(requests, len(acceptance))


def _at(table: Mapping[int, float], rows: int) -> float:
    known = sorted(table)
    right = bisect.bisect_left(known, rows)
    if right == 0 or len(known) == 1:
        return table[known[0]]
    low, high = (known[-2], known[-1]) if right == len(known) else (known[right - 1], known[right])
    slope = (table[high] - table[low]) / (high - low)
    return (
        max(table[low] + slope * (rows - low), 0.0) if rows <= high else table[high] + max(slope, 0.0) * (rows - high)
    )


def best_length(requests: int, acceptance: Sequence[float], cost: Cost) -> int:
    """The K in 0 .. len(acceptance) of the highest rate; the smaller one on ties."""
    return max(range(len(acceptance) + 1), key=lambda k: cost.rate(requests, acceptance[:k]))


def break_even(acceptance: Sequence[float], cost: Cost, largest: int) -> int | None:
    """The smallest batch in 1 .. largest at which K = len(acceptance) is no faster than K = 0; None: always faster."""
    for requests in range(1, largest + 1):
        if cost.rate(requests, acceptance) <= cost.rate(requests, ()):
            return requests
    return None


@dataclass(kw_only=True)
class DraftLengthChooser:
    """The number of drafts of the next steps; it changes rarely and for a reason.

    Rule    K moves to the best length when that has beaten the present one by more than `margin` in `patience`
            decisions in a row. With K = 0 nothing is measured, so every `probe_every` decisions K = 1 for one decision.
    Source  ours.
    Units   largest: drafts.  margin: fraction of the rate.  patience, probe_every: decisions (a decision spans as many
            steps as the caller likes); probe_every 0 never probes.
    Traps   the best length may differ from one decision to the next while still beating the present one: that counts.
    """

    largest: int
    cost: Cost
    margin: float = 0.05
    patience: int = 3
    probe_every: int = 50
    length: int = field(default=-1, init=False)  # drafts of the next steps; starts at `largest`
    _better: int = field(default=0, init=False)  # decisions in a row that wanted a change
    _idle: int = field(default=0, init=False)  # decisions in a row at K = 0
    _probing: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if self.largest < 1 or self.patience < 1 or self.probe_every < 0:
            raise ValueError(
                "DraftLengthChooser wants largest >= 1, patience >= 1 and probe_every >= 0, got"
                f" {self.largest}, {self.patience} and {self.probe_every}"
            )
        if not 0.0 <= self.margin < math.inf:
            raise ValueError(f"DraftLengthChooser.margin is a fraction >= 0, got {self.margin}")
        self.length = self.largest

    def decide(self, requests: int, meter: AcceptanceMeter) -> int:
        """K for the next steps, with `requests` running. Without any there is nothing to decide."""
        if requests < 1:
            return self.length
        if self._probing:
            self._probing, self.length = False, 0
        acceptance = meter.conditional(self.largest)
        best = best_length(requests, acceptance, self.cost)
        gain = self.cost.rate(requests, acceptance[:best]) / self.cost.rate(requests, acceptance[: self.length]) - 1.0
        self._better = self._better + 1 if best != self.length and gain > self.margin else 0
        if self._better >= self.patience:
            self.length, self._better = best, 0
        self._idle = self._idle + 1 if self.length == 0 else 0
        if self.probe_every and self._idle >= self.probe_every:
            self.length, self._idle, self._probing = 1, 0, True
        return self.length
