"""What a decoding step costs, measured while it is needed: the cost that `speculation.DraftLengthChooser` decides by.

    (running requests, drafts, seconds) of each step --observe--> seconds of a step with K drafts, for every K
                                                      --wanted--> the K to try next, while that is not known

Measured in the engine itself, so everything is in it: the target, the drafter, verification, and Python around them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from rollout.draw.speculation import expected_tokens


@dataclass
class _Class:
    """Batches of about one size."""

    round: dict[int, list[float]]  # drafts -> seconds of the steps of the round under way
    known: dict[int, float] | None = None  # drafts -> seconds, from the last complete round
    ended_at: int | None = None  # in steps: when the last round ended, complete or not
    missed: int = 0  # steps of the round that could not be compared


@dataclass(kw_only=True)
class MeasuredSteps:
    """Seconds of a step by running requests and drafts.

    Rule    rounds of `window` steps at each of K = 0, 1 and `largest`, in turns, so that a machine that gets busier
            favours none of them; of each the lower quartile, as what disturbs a step only makes it longer; linear
            between (rows and drafts of a step grow with K). One round for batches within an octave, repeated after
            `refresh` steps, given up where `patience` steps of it could not be compared.
    Source  ours.
    Units   seconds. window, refresh, patience: steps.
    """

    largest: int
    window: int = 8
    refresh: int = 2000
    patience: int = 100
    _classes: dict[int, _Class] = field(default_factory=dict, init=False)
    _steps: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if min(self.largest, self.window, self.refresh, self.patience) < 1:
            raise ValueError(
                "MeasuredSteps wants largest, window, refresh and patience >= 1, got"
                f" {self.largest}, {self.window}, {self.refresh} and {self.patience}"
            )

    def observe(self, requests: int, drafts: int, seconds: float | None) -> None:
        """A step of `requests` requests with `drafts` drafts each; None: it cannot be compared, as it read a prompt."""
        self._steps += 1
        batches = self._class_of(requests)
        if self.wanted(requests) is None:
            return
        if seconds is None or drafts not in batches.round:
            batches.missed += 1
        else:
            batches.round[drafts].append(seconds)
        complete = min(map(len, batches.round.values())) >= self.window
        if complete:
            batches.known = {at: sorted(found)[len(found) // 4] for at, found in batches.round.items()}
        if complete or batches.missed >= self.patience:
            batches.ended_at, batches.missed, batches.round = self._steps, 0, self._empty_round()

    def wanted(self, requests: int) -> int | None:
        """The drafts of the next step, where a round is under way for this many requests."""
        batches = self._class_of(requests)
        if batches.ended_at is not None and self._steps - batches.ended_at <= self.refresh:
            return None
        return min(batches.round, key=lambda drafts: len(batches.round[drafts]))

    def knows(self, requests: int) -> bool:
        """Whether a round for so many requests has been completed."""
        return self._class_of(requests).known is not None

    def step_s(self, requests: int, drafts: int) -> float:
        """Seconds of such a step. Raises ValueError for a batch of which it does not know."""
        known = self._class_of(requests).known
        if known is None:
            raise ValueError(f"steps of {requests} requests have not been measured yet")
        if drafts in known:
            return known[drafts]
        return known[1] + (drafts - 1) / (self.largest - 1) * (known[self.largest] - known[1])

    def rate(self, requests: int, acceptance: Sequence[float]) -> float:
        """Tokens per second of one request, with len(acceptance) drafts a step."""
        return expected_tokens(acceptance) / self.step_s(requests, len(acceptance))

    def _class_of(self, requests: int) -> _Class:
        return self._classes.setdefault(round(math.log2(requests)), _Class(self._empty_round()))

    def _empty_round(self) -> dict[int, list[float]]:
        return {drafts: [] for drafts in (self.largest, 1, 0)}
