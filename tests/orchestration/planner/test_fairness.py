"""Long rollouts are trained like short ones: lengths of what is trained against lengths of what is generated.

Many short runs, each with four steps' groups in flight from the first second, and of each only the first two steps. A
scheduler that trains what finishes first trains the short half there. The test is Kolmogorov and Smirnov's for two
samples of n groups, at a false alarm rate of ALPHA. By the inequality of Dvoretzky, Kiefer, Wolfowitz and Massart it
finds a difference d of the distribution functions with probability at least 1 - 4 exp(-n (d - critical)^2 / 2).
"""

import itertools
import math
from bisect import bisect_right

import pytest

from orchestration import actions, events
from orchestration.planner.rates import Lengths, Rates
from orchestration.planner.simulation import Setting, Simulation
from orchestration.scheduler import Scheduler
from orchestration.scheduler_config import SchedulerConfig

RUNS, STEPS, GROUPS = 40, 2, 8
N = RUNS * STEPS * GROUPS
ALPHA = 1e-4
CRITICAL = math.sqrt(-math.log(ALPHA / 2) / 2) * math.sqrt(2 / N)
LENGTHS = Lengths(mean=200.0, spread=1.0)


class FirstComeFirstTrained(Scheduler):
    """The mistake: a step takes the groups that are scored first."""

    def __init__(self, config: SchedulerConfig) -> None:
        super().__init__(config)
        self.scored: list[int] = []

    def _on_verdicts_arrived(self, event: events.VerdictsArrived) -> None:
        super()._on_verdicts_arrived(event)
        self.scored.append(event.group)

    def _train_if_ready(self) -> None:
        if self._training is None and len(self.scored) >= GROUPS:
            self._training, self.scored = self.scored[:GROUPS], self.scored[GROUPS:]
            self._out.append(actions.Train(step=self._trained, groups=tuple(self._training)))


def first_trained(scheduler: type[Scheduler]) -> list[int]:
    """Tokens of the groups of the first steps, over all runs."""
    pacing = SchedulerConfig(
        groups_per_step=GROUPS,
        total_steps=STEPS + 4,
        max_staleness=3,
        publish_every=1,
        eval_every=0,
        eval_at_start=True,
        eval_at_end=False,
        checkpoint_every=0,
    )
    rates = Rates(decode={1: 40.0, 64: 1600.0}, lengths=LENGTHS, learner_tokens_per_s=5000.0, verdict_latency_s=0.5)
    trained = []
    for seed in range(RUNS):
        simulation = Simulation(
            Setting(
                pacing=pacing,
                rates=rates,
                workers=3,
                ranks=1,
                group_size=4,
                longest=4000,
                running=64,
                capacity=100,
                seed=seed,
            ),
            scheduler,
        )
        simulation.run()
        trained += simulation.trained_tokens[: STEPS * GROUPS]
    return trained


def generated() -> list[int]:
    """As many, of the same distribution, drawn apart from any run."""
    return [sum(group) for group in itertools.islice(LENGTHS.groups(4, 4000, seed=10_000), N)]


def distance(one: list[int], other: list[int]) -> float:
    """The largest difference of the two empirical distribution functions; both samples have N entries."""
    one, other = sorted(one), sorted(other)
    return max(abs(bisect_right(one, at) - bisect_right(other, at)) for at in one + other) / N


def test_what_is_trained_is_as_long_as_what_is_generated():
    """No difference at a false alarm rate of 1e-4; one of 0.3 would be found with probability 0.99."""
    assert 1 - 4 * math.exp(-N * (0.3 - CRITICAL) ** 2 / 2) > 0.99
    assert distance(first_trained(Scheduler), generated()) < CRITICAL


def test_a_scheduler_that_trains_what_finishes_first_is_found_out():
    """The same test, the same lengths, and a distance three times the critical one."""
    assert distance(first_trained(FirstComeFirstTrained), generated()) > 3 * CRITICAL


@pytest.mark.parametrize("scheduler", [Scheduler, FirstComeFirstTrained])
def test_in_the_end_everything_generated_is_trained(scheduler: type[Scheduler]):
    """Which is why only the order can be unfair: nothing that was admitted is thrown away."""
    pacing = SchedulerConfig(
        groups_per_step=GROUPS,
        total_steps=6,
        max_staleness=3,
        publish_every=1,
        eval_every=0,
        eval_at_start=True,
        eval_at_end=False,
        checkpoint_every=0,
    )
    rates = Rates(decode={1: 40.0, 64: 1600.0}, lengths=LENGTHS, learner_tokens_per_s=5000.0)
    simulation = Simulation(
        Setting(
            pacing=pacing, rates=rates, workers=3, ranks=1, group_size=4, longest=4000, running=64, capacity=100, seed=5
        ),
        scheduler,
    )
    simulation.run()
    drawn = [sum(group) for group in itertools.islice(LENGTHS.groups(4, 4000, seed=5), 6 * GROUPS)]
    assert sorted(simulation.trained_tokens) == sorted(drawn)
