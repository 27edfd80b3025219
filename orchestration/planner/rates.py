"""Rates: how fast each part of a run is, given in the section `plan.rates` or measured on a finished run.

An engine's speed is a table, tokens/s by responses running at once. Between its entries, and beyond the last, the time
of a decode step is linear in the number of responses (a step reads the weights once, and computes for every response);
below the first entry it stays that of the first.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

BLOCK = 65_536  # lengths drawn at once


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """How long responses are, in tokens: log-normal with this mean and spread, a histogram, or those that a run had.
    Cut at task.max_tokens.

    spread     standard deviation divided by the mean, before the cut
    histogram  weight by length, instead of both
    recorded   whole groups in the order of a run, over and over: responses to one prompt are alike, and a policy that
               learns writes shorter or longer ones. For groups of another size one is drawn from, with replacement.
    """

    mean: float | None = None
    spread: float = 0.6
    histogram: Mapping[int, float] | None = None
    recorded: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        if self._ways > 1:
            raise ValueError("plan.rates.lengths takes a mean, a histogram or recorded groups, and only one of them")
        if self.mean is not None and not 1 <= self.mean < math.inf:
            raise ValueError(f"plan.rates.lengths.mean is at least 1 token, got {self.mean}")
        if not 0 <= self.spread < math.inf:
            raise ValueError(f"plan.rates.lengths.spread is at least 0, got {self.spread}")
        if self.histogram is not None:
            weights = list(self.histogram.values())
            if not weights or min(self.histogram) < 1 or min(weights) < 0 or not 0 < sum(weights) < math.inf:
                raise ValueError(
                    "plan.rates.lengths.histogram maps lengths of at least 1 token to weights of at least 0 that do not"
                    f" all vanish, got {dict(self.histogram)}"
                )
        if any(not group or min(group) < 1 for group in self.recorded):
            raise ValueError("plan.rates.lengths.recorded has groups of at least one response of at least 1 token")

    @property
    def known(self) -> bool:
        return self._ways > 0

    @property
    def _ways(self) -> int:
        """In which they are given."""
        return (self.mean is not None) + (self.histogram is not None) + bool(self.recorded)

    def groups(self, size: int, longest: int, seed: int) -> Iterator[list[int]]:
        """Endless: the lengths of one group after the other, always the same for a seed."""
        generator = np.random.default_rng(seed)
        for group in itertools.cycle(self.recorded):
            drawn = group if len(group) == size else generator.choice(group, size)
            yield np.clip(drawn, 1, longest).tolist()
        rows = max(BLOCK // size, 1)
        while True:
            yield from np.clip(self._draw(generator, (rows, size)), 1, longest).tolist()

    def _draw(self, generator: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
        if self.histogram is not None:
            weights = np.array(list(self.histogram.values()), float)
            return generator.choice(np.array(list(self.histogram), int), shape, p=weights / weights.sum())
        variance = math.log1p(self.spread**2)
        drawn = generator.lognormal(math.log(self.mean) - variance / 2, math.sqrt(variance), shape)
        return np.rint(drawn).astype(int)


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Seconds, tokens, tokens per second. Raises ValueError for what cannot be."""

    decode: Mapping[int, float] = field(default_factory=dict)  # tokens/s of an engine by responses running, in sum
    turnover_s: float = 0.0  # of an engine, to begin and end one response, its prompt: nothing is drawn meanwhile
    aside_s: float = 0.0  # of an empty engine's process, to hand one response on: done before the next is taken in
    lengths: Lengths = field(default_factory=Lengths)
    learner_tokens_per_s: float | None = None  # response tokens, of one rank
    learner_fixed_s: float = 0.0  # of every step, whatever its size: the optimizer, the batch on its way
    rank_efficiency: float = 0.95  # two ranks are this much of twice as fast as one, and so on with every doubling
    verdicts_per_s: float | None = None  # of all verifiers together; None: as many as come
    verdict_latency_s: float = 0.0  # of a group, with no other before it
    rejected: float = 0.0  # share of the groups that another takes the place of, where run.max_refills allows
    overhead_s: float = 0.0  # from the start of a group to its first token, and from its last to its arrival, together
    snapshot_s: float = 0.0  # of the learner, per publication: it takes no step meanwhile
    transfer_s: float = 0.0  # from the snapshot to its confirmation by engines that have nothing to finish before
    pause_s: float = 0.0  # of that time, at its end, every engine stands still
    checkpoint_s: float = 0.0  # until it is written, beside training
    hours_between_losses: float | None = None  # of one rollout worker, mean; None: none is ever lost
    restart_s: float = 0.0  # from a loss until the new worker has joined
    acceptance: float = 0.7  # chance that the policy keeps a draft, the ones before it kept
    draft_cost: float = 0.1  # of drafting one token, in decode steps of one response

    def __post_init__(self) -> None:
        if len(self.decode) == 1:
            raise ValueError(
                f"plan.rates.decode is tokens/s by responses running and needs at least two entries, got"
                f" {dict(self.decode)}: write for example {{1: 40, 64: 1600}}"
            )
        if min(self.decode, default=1) < 1 or not all(0 < rate < math.inf for rate in self.decode.values()):
            raise ValueError(
                f"plan.rates.decode maps numbers of responses, at least 1, to tokens/s above 0, got {dict(self.decode)}"
            )
        steps = [count / self.decode[count] for count in sorted(self.decode)]
        if any(later < earlier * (1 - 1e-9) for earlier, later in zip(steps, steps[1:], strict=False)):
            raise ValueError(
                "plan.rates.decode says that a decode step gets shorter with more responses"
                f" ({', '.join(f'{step:.3g} s' for step in steps)}): tokens/s may grow at most in proportion"
            )
        for name in ("learner_tokens_per_s", "verdicts_per_s", "hours_between_losses"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise ValueError(f"plan.rates.{name} is above 0, got {value}")
        for name in _TIMES:
            if not 0 <= (value := getattr(self, name)) < math.inf:
                raise ValueError(f"plan.rates.{name} is at least 0 seconds, got {value}")
        if not 0 <= self.rejected <= 1:
            raise ValueError(f"plan.rates.rejected is a share of the groups, from 0 to 1, got {self.rejected}")
        if not 0 < self.rank_efficiency <= 1:
            raise ValueError(f"plan.rates.rank_efficiency is above 0 and at most 1, got {self.rank_efficiency}")
        if not 0 <= self.acceptance < 1:
            raise ValueError(f"plan.rates.acceptance is at least 0 and below 1, got {self.acceptance}")
        if not self.draft_cost >= 0:
            raise ValueError(f"plan.rates.draft_cost is at least 0 decode steps, got {self.draft_cost}")

    @property
    def missing(self) -> str | None:
        """The first rate without which nothing can be simulated; None where all are there."""
        if not self.decode:
            return "decode"
        if not self.lengths.known:
            return "lengths.mean"
        return "learner_tokens_per_s" if self.learner_tokens_per_s is None else None

    @property
    def travel_s(self) -> float:
        """From the snapshot until weights are there, and the engines stand still."""
        return max(self.transfer_s - self.pause_s, 0.0)

    def step_s(self, responses: float) -> float:
        """Seconds of one decode step with so many tokens in it."""
        counts = sorted(self.decode)
        steps = [count / self.decode[count] for count in counts]
        if responses <= counts[-1]:
            return float(np.interp(responses, counts, steps))
        slope = (steps[-1] - steps[-2]) / (counts[-1] - counts[-2])
        return steps[-1] + slope * (responses - counts[-1])

    def pace(self, most: int, drafts: int) -> Sequence[float]:
        """Seconds per token of a response, by responses running: 0 (unused) to `most`.

        With drafts, a step verifies drafts + 1 tokens of every response, after drafting them, and keeps
        1 + a + a^2 + ... + a^drafts of them on average (a = acceptance; Leviathan et al. 2023, arXiv:2211.17192).
        """
        kept = sum(self.acceptance**position for position in range(drafts + 1))
        drafting_s = drafts * self.draft_cost * self.step_s(1)
        return [0.0] + [(self.step_s(count * (drafts + 1)) + drafting_s) / kept for count in range(1, most + 1)]

    def ranks_speed(self, ranks: int) -> float:
        """How many times as fast as one rank."""
        return ranks * self.rank_efficiency ** math.log2(ranks)

    def learner_step_s(self, tokens: float, ranks: int) -> float:
        """Seconds of one learner step on so many response tokens."""
        return self.learner_fixed_s + tokens / (self.learner_tokens_per_s * self.ranks_speed(ranks))


_TIMES = (
    "turnover_s",
    "aside_s",
    "learner_fixed_s",
    "verdict_latency_s",
    "overhead_s",
    "snapshot_s",
    "transfer_s",
    "pause_s",
    "checkpoint_s",
    "restart_s",
)
