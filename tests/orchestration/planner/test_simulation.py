"""Simulated runs against closed forms, and what holds for every one of them."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from orchestration import events
from orchestration.planner.answer import simulate, steady
from orchestration.planner.rates import Lengths, Rates
from orchestration.planner.simulation import Setting, Simulation
from orchestration.scheduler import Scheduler
from orchestration.scheduler_config import SchedulerConfig

FLAT = {1: 10.0, 100: 1000.0}  # every response draws 10 tokens/s, however many run


def setting(*, rates: dict | None = None, **changes) -> Setting:
    """Two groups of four, one worker; a response is 20 tokens and 2 s, a verdict 0.5 s, a step 1 s + 160/320 s."""
    plain = {
        "decode": FLAT,
        "lengths": Lengths(histogram={20: 1.0}),
        "learner_tokens_per_s": 320.0,
        "learner_fixed_s": 1.0,
        "verdict_latency_s": 0.5,
        "snapshot_s": 0.125,
        "transfer_s": 0.25,
    }
    pacing = {
        "groups_per_step": 2,
        "total_steps": 6,
        "max_staleness": 0,
        "publish_every": 1,
        "eval_every": 0,
        "eval_at_start": True,
        "eval_at_end": False,
        "checkpoint_every": 0,
        "refills": 0,
    }
    given = {name: changes.pop(name) for name in list(changes) if name in pacing}
    world = {"workers": 1, "ranks": 1, "group_size": 4, "longest": 50, "running": 100, "capacity": 1000}
    return Setting(
        pacing=SchedulerConfig(**{**pacing, **given}),
        rates=Rates(**{**plain, **(rates or {})}),
        **{**world, **changes},
    )


def simulated(chosen: Setting, scheduler=Scheduler) -> Simulation:
    simulation = Simulation(chosen, scheduler)
    simulation.run()
    return simulation


def times(simulation: Simulation) -> list[float]:
    return [step.at_s for step in simulation.steps]


SYNCHRONOUS_STEP_S = 2.0 + 0.5 + 1.5 + 0.125 + 0.25  # rollout, verdict, learner, snapshot, transfer


def test_a_synchronous_step_is_the_sum_of_its_parts():
    """S = 0: rollout + verdict + learner + sync, step after step; the engine is busy for the first part alone."""
    simulation = simulated(setting())
    assert times(simulation) == pytest.approx([4.0 + i * SYNCHRONOUS_STEP_S for i in range(6)])
    assert [step.rollout_busy_s for step in simulation.steps] == pytest.approx([2.0 * (i + 1) for i in range(6)])
    learner_s = [1.5 * (i + 1) + 0.125 * i for i in range(6)]
    assert [step.learner_busy_s for step in simulation.steps] == pytest.approx(learner_s)
    assert {(step.oldest, step.mean_age) for step in simulation.steps} == {(0, 0.0)}


def test_an_asynchronous_run_goes_as_fast_as_its_slowest_part():
    """S = 2 with a learner of 10 s a step: it never waits again, and takes a snapshot between two steps."""
    simulation = simulated(setting(max_staleness=2, rates={"learner_fixed_s": 9.5}))
    assert np.diff(times(simulation)) == pytest.approx([10.125] * 5)
    assert max(step.oldest for step in simulation.steps) == 2


def test_an_asynchronous_run_with_slow_rollouts_waits_for_them():
    """S = 1, 100 tokens a response: two steps' groups run side by side in 10 s each, and one publication lets go two.

    Groups of steps 0 and 1 end at 10 s; step 0 is trained at 12 s and published at 12.375 s: the groups of step 2 end
    10 s later and are trained 2 s after that.
    """
    rates = {
        "lengths": Lengths(histogram={100: 1.0}),
        "learner_fixed_s": 1.5 - 800 / 3200,
        "learner_tokens_per_s": 3200.0,
    }
    simulation = simulated(setting(max_staleness=1, longest=100, total_steps=3, rates=rates))
    assert times(simulation) == pytest.approx([12.0, 13.625, 12.375 + 12.0])


def test_ranks_share_the_tokens_and_not_the_fixed_part():
    """Four ranks at an efficiency of 0.9 a doubling are 4 * 0.81 as fast: 1 s + 0.5 s / 3.24."""
    one, four = (simulated(setting(ranks=ranks, rates={"rank_efficiency": 0.9})) for ranks in (1, 4))
    assert times(one)[0] - times(four)[0] == pytest.approx(0.5 - 0.5 / 3.24)


def test_verifiers_judge_one_group_after_the_other():
    """8 verdicts/s: the groups of four end together, the first is judged after 0.5 s, the second after 1 s."""
    simulation = simulated(setting(total_steps=1, rates={"verdicts_per_s": 8.0}))
    assert times(simulation) == pytest.approx([2.0 + 1.0 + 0.5 + 1.5])


class Publications(Simulation):
    """Remembers when versions were confirmed."""

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self.published: list[float] = []

    def _tell(self, event: events.Event) -> None:
        if isinstance(event, events.WeightsPublished):
            self.published.append(self.now)
        super()._tell(event)


def test_weights_wait_for_the_prompts_that_an_engine_reads():
    """S = 1, 0.05 s a prompt and as much for a record: one publication lets go group 2 with its prompts until 0.2 s
    after it; the next version is there 0.15 s after it, and waits for them."""
    rates = {"turnover_s": 0.1, "learner_fixed_s": 0.0, "learner_tokens_per_s": 1600.0, "snapshot_s": 0.0}
    rates |= {"transfer_s": 0.05, "pause_s": 0.05}
    simulation = Publications(setting(max_staleness=1, groups_per_step=1, total_steps=4, rates=rates))
    simulation.run()
    # Groups 0 and 1: eight prompts, 20 tokens at 0.1 s, three records before the last response of the first ends, and
    # 0.5 s for the verdict. Step 0 takes 80 / 1600 s. Four more records before the second group ends.
    first = 8 * 0.05 + 2.0 + 3 * 0.05 + 0.5 + 0.05
    second = first + 4 * 0.05
    # Version 1 is confirmed 0.05 s after the first step; version 2 finds the prompts of group 2 being read.
    published = first + 0.05 + 4 * 0.05 + 0.05
    # Group 2 draws nothing until then, nor while those of group 3 are read.
    third = published + 4 * 0.05 + 2.0 + 3 * 0.05 + 0.5 + 0.05
    assert times(simulation) == pytest.approx([first, second, third, third + 4 * 0.05])
    assert simulation.published[:2] == pytest.approx([first + 0.05, published])


def test_rejected_groups_are_drawn_again():
    """With half of the groups rejected and as many refills as one likes, two are drawn for each one trained; refused
    refills cost nothing."""
    changes = {"total_steps": 60, "max_staleness": 0, "rates": {"rejected": 0.5}}
    plain, refilled = (simulated(setting(refills=refills, **changes)) for refills in (0, 20))
    drawn = [simulation.steps[-1].tokens_drawn / sum(simulation.trained_tokens) for simulation in (plain, refilled)]
    assert drawn[0] == pytest.approx(1.0)
    assert drawn[1] == pytest.approx(2.0, rel=0.15)
    assert len(refilled.trained_tokens) == 120


def test_an_evaluation_shares_the_engines_and_holds_back_the_publication():
    """S = 0, evaluated at version 1: its responses run beside those of step 1, each as fast as before.

    They end when the training's do, and are judged 0.5 s later: nothing waits for them, but the learner's rest.
    """
    plain = simulated(setting(total_steps=2))
    evaluated = simulated(setting(total_steps=2, eval_every=1, evaluated_tasks=3, evaluated_samples=4))
    assert times(evaluated) == pytest.approx(times(plain))
    assert evaluated.now == pytest.approx(plain.now + 2.0 + 0.5), "version 2 is evaluated after everything else"


def test_speculation_keeps_a_geometric_number_of_drafts():
    """a = 0.5, 2 drafts: 1.75 tokens a step instead of 1; with a flat step time and free drafts the rollout takes
    2 s / 1.75."""
    rates = {"decode": {1: 10.0, 100: 1000.0}, "acceptance": 0.5, "draft_cost": 0.0}
    plain, drafted = (simulated(setting(total_steps=1, drafts=drafts, rates=rates)) for drafts in (0, 2))
    assert times(plain)[0] - times(drafted)[0] == pytest.approx(2.0 - 2.0 / 1.75)


def test_speculation_costs_where_the_engine_is_full():
    """A step whose time grows with its tokens: verifying 3 tokens a response takes 3 times as long and gives 1.75."""
    rates = {"decode": {1: 10.0, 2: 10.0, 3: 10.0}, "acceptance": 0.5, "draft_cost": 0.0}
    plain, drafted = (simulated(setting(total_steps=1, drafts=drafts, rates=rates)) for drafts in (0, 2))
    assert (times(drafted)[0] - 2.0) / (times(plain)[0] - 2.0) == pytest.approx(3 / 1.75)


def test_lost_workers_cost_time_and_no_group():
    """One loss every 20 s of a worker, 5 s to come back: every group is trained once, later than without losses."""
    changes = {"workers": 3, "max_staleness": 1, "total_steps": 40, "groups_per_step": 6}
    calm = simulated(setting(**changes))
    rough = simulated(setting(**changes, rates={"hours_between_losses": 20 / 3600, "restart_s": 5.0}))
    assert rough.lost_workers > 5
    assert rough.now > calm.now
    assert len(rough.trained_tokens) == len(calm.trained_tokens) == 240


@pytest.mark.parametrize(
    ("steps", "max_staleness", "expected"),
    [(40, 0, (10, 39)), (40, 1, (10, 38)), (41, 1, (10, 38)), (40, 2, (10, 37)), (1, 3, (-1, 0)), (4, 3, (1, 3))],
)
def test_the_steady_part_of_a_run(steps: int, max_staleness: int, expected: tuple[int, int]):
    """Without the quarter in which it fills and the steps in which it drains, in whole bursts; all that is there of a
    run that is too short for that."""
    assert steady(steps, max_staleness) == expected


def test_the_pace_that_is_foretold_is_that_of_a_long_run():
    """S = 2 and slow rollouts of one length: three steps come at once, in a run of 20 steps as in one of 200."""
    changes = {"max_staleness": 2, "rates": {"learner_fixed_s": 0.1}}
    short, long = (
        simulate(setting(total_steps=steps, **changes), total_steps=steps, gpus_per_worker=1) for steps in (20, 200)
    )
    assert short.steps_per_hour == pytest.approx(long.steps_per_hour, rel=0.02)


settings = st.builds(
    lambda staleness, publish, spread, verdicts, losses, pause, turnover, aside, rejected, **rest: setting(
        max_staleness=staleness,
        publish_every=min(publish, staleness + 1),
        rates={
            "lengths": Lengths(mean=20.0, spread=spread),
            "decode": {1: 10.0, 8: 60.0},
            "verdicts_per_s": verdicts,
            "hours_between_losses": losses,
            "pause_s": pause,
            "turnover_s": turnover,
            "aside_s": aside,
            "rejected": rejected,
            "restart_s": 1.0,
        },
        evaluated_tasks=2,
        evaluated_samples=1,
        **rest,
    ),
    staleness=st.integers(0, 3),
    publish=st.integers(1, 3),
    spread=st.floats(0, 2),
    verdicts=st.sampled_from([None, 5.0, 50.0]),
    losses=st.sampled_from([None, 0.01]),
    pause=st.sampled_from([0.0, 0.2]),
    turnover=st.sampled_from([0.0, 0.1]),
    aside=st.sampled_from([0.0, 0.2]),
    rejected=st.sampled_from([0.0, 0.3]),
    refills=st.integers(0, 2),
    workers=st.integers(1, 4),
    running=st.integers(1, 12),
    group_size=st.integers(2, 5),
    capacity=st.integers(1, 9),
    total_steps=st.integers(1, 8),
    eval_every=st.sampled_from([0, 2]),
    drafts=st.integers(0, 3),
    seed=st.integers(0, 99),
)


@hypothesis.settings(max_examples=50, deadline=None, derandomize=True, database=None)
@hypothesis.given(settings)
def test_what_holds_for_every_run(chosen: Setting):
    """Every group is trained once, ages stay in the bound, nobody is busy for longer than there is time, and every
    trained token was drawn."""
    simulation = simulated(chosen)
    pacing = chosen.pacing
    assert len(simulation.trained_tokens) == pacing.total_steps * pacing.groups_per_step
    assert len(simulation.steps) == pacing.total_steps
    previous = (0.0, 0.0, 0.0, 0.0)
    for step in simulation.steps:
        totals = (step.at_s, step.rollout_busy_s, step.learner_busy_s, step.tokens_drawn)
        assert all(now >= before for now, before in zip(totals, previous, strict=True)), "also when a worker is lost"
        previous = totals
        assert 0 <= step.mean_age <= step.oldest <= pacing.max_staleness
        assert step.learner_busy_s <= step.at_s + 1e-9
        begun_s = (chosen.rates.turnover_s + chosen.rates.aside_s) * chosen.running  # which counts when it begins
        assert step.rollout_busy_s <= (step.at_s + begun_s) * chosen.workers + 1e-6
    assert simulation.steps[-1].tokens_drawn >= sum(simulation.trained_tokens) - 1e-6


def test_the_same_seed_is_the_same_run():
    """And another seed is another one."""
    changes = {"rates": {"lengths": Lengths(mean=20.0, spread=0.5)}}
    first, again, other = (simulated(setting(seed=seed, **changes)) for seed in (1, 1, 2))
    assert times(first) == times(again) != times(other)


def test_recorded_groups_come_in_their_order_over_and_over():
    """Whole ones for groups of their size; for others, draws from one of them."""
    recorded = Lengths(recorded=((3, 4), (50, 60), (7, 7)))
    whole, drawn = recorded.groups(2, 55, seed=0), recorded.groups(3, 55, seed=0)
    assert [next(whole) for _ in range(4)] == [[3, 4], [50, 55], [7, 7], [3, 4]]
    for pair in (recorded.recorded[0], (50, 55), (7, 7), recorded.recorded[0]):
        assert len(group := next(drawn)) == 3
        assert set(group) <= set(pair)


@pytest.mark.parametrize(
    "given", [{"mean": 3.0, "recorded": ((3,),)}, {"recorded": ((3,), ())}, {"recorded": ((3, 0),)}]
)
def test_lengths_that_cannot_be_are_refused(given: dict):
    with pytest.raises(ValueError, match=r"plan\.rates\.lengths"):
        Lengths(**given)
