"""Whatever happens in whatever order, the scheduler keeps the bound, the order, every group, and moving.

Hypothesis chooses what happens next in a `World`.
"""

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from orchestration import events
from orchestration.errors import SchedulerError
from orchestration.scheduler import SchedulerConfig
from tests.orchestration.scheduler_world import World

configs = st.builds(
    lambda staleness, publish, turns, **rest: SchedulerConfig(
        max_staleness=staleness,
        publish_every=min(publish, staleness + 1),
        take_turns=turns and not staleness,
        max_retries=3,
        **rest,
    ),
    staleness=st.integers(0, 3),
    publish=st.integers(1, 4),
    turns=st.booleans(),
    groups_per_step=st.integers(1, 3),
    total_steps=st.integers(1, 7),
    eval_every=st.integers(0, 3),
    eval_at_start=st.booleans(),
    eval_at_end=st.booleans(),
    checkpoint_every=st.integers(0, 3),
    refills=st.integers(0, 2),
)
picks = st.integers(0, 1_000)  # an index into whatever there is to choose from
SELDOM = 4  # trouble comes this many times less often than it is offered, so that runs get somewhere
RARELY = 12


def choose(options, pick: int):
    return sorted(options)[pick % len(options)]


class AnyOrder(RuleBasedStateMachine):
    """Engines come and go, groups finish out of order and fail, the driver is stopped or killed and resumed."""

    @initialize(config=configs)
    def begin(self, config: SchedulerConfig) -> None:
        self.world = World(config)

    @precondition(lambda self: not self.world.scheduler.done)
    @rule(some=st.lists(picks, min_size=5, max_size=20))
    def answers_arrive(self, some: list[int]) -> None:
        for pick in some:
            if outstanding := self.world.outstanding():
                answer, *key = outstanding[pick % len(outstanding)]
                answer(*key)
            self.world.check()
            if self.world.scheduler.done:
                return

    @precondition(lambda self: not self.world.scheduler.done)
    @rule(name=st.sampled_from("abc"), pick=picks, capacity=st.integers(1, 8))
    def worker_joins(self, name: str, pick: int, capacity: int) -> None:
        if name not in self.world.engines or pick % SELDOM == 0:
            self.world.join(name, choose({-1, 0, self.world.published, self.world.learner}, pick // SELDOM), capacity)
            self.world.confirm_publication()

    @precondition(lambda self: self.world.engines and not self.world.scheduler.done)
    @rule(pick=picks)
    def worker_is_lost(self, pick: int) -> None:
        if pick % SELDOM == 0:
            self.world.lose(choose(self.world.engines, pick // SELDOM))

    @precondition(lambda self: (self.world.scoring or self.world.running) and not self.world.scheduler.done)
    @rule(pick=picks)
    def group_fails(self, pick: int) -> None:
        key = choose([*self.world.scoring, *self.world.running], pick)
        if self.world.failures[key[0]] < self.world.config.max_retries:
            self.world.fail(key)

    @precondition(lambda self: self.world.may_reject & self.world.scoring and not self.world.scheduler.done)
    @rule(pick=picks)
    def group_is_rejected(self, pick: int) -> None:
        self.world.reject(choose(self.world.may_reject & self.world.scoring, pick))

    @precondition(lambda self: self.world.evaluating is not None and not self.world.scheduler.done)
    @rule()
    def evaluation_fails(self) -> None:
        if self.world.failures["evaluation"] < self.world.config.max_retries:
            self.world.failures["evaluation"] += 1
            self.world.finish_evaluation(works=False)

    @precondition(lambda self: self.world.given_up and not self.world.scheduler.done)
    @rule(pick=picks, kind=st.sampled_from(["finished", "scored", "rejected", "failed"]))
    def late_news_arrives(self, pick: int, kind: str) -> None:
        group, attempt = choose(self.world.given_up, pick)
        assert not self.world.scheduler.is_current(group, attempt)
        match kind:
            case "finished":
                self.world.tell(events.GroupFinished(group=group, attempt=attempt, min_version=-5))
            case "scored":
                self.world.tell(events.VerdictsArrived(group=group, attempt=attempt))
            case "rejected":
                self.world.tell(events.GroupRejected(group=group, attempt=attempt))
            case "failed":
                for _ in range(self.world.config.max_retries + 1):
                    self.world.tell(events.GroupFailed(group=group, attempt=attempt, reason="late"))

    @precondition(lambda self: not self.world.scheduler.done)
    @rule(pick=picks)
    def stop(self, pick: int) -> None:
        if pick % RARELY == 0:
            self.world.stop()

    @rule(pick=picks)
    def driver_is_killed_and_resumes(self, pick: int) -> None:
        if pick % RARELY == 0 or self.world.scheduler.done:
            self.world.boot()

    @invariant()
    def everything_holds(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

    def teardown(self) -> None:
        """A run always ends, and then every task was trained exactly once."""
        if not hasattr(self, "world"):
            return
        world = self.world
        world.run_to_the_end()
        if world.stopping:
            assert world.checkpoint is not None
            assert world.checkpoint.version == world.learner
            world.boot()
            world.run_to_the_end()
        steps, size = world.config.total_steps, world.config.groups_per_step
        assert [len(step) for step in world.trained] == [size] * steps
        assert not world.config.eval_at_start or world.evaluated[0] == 0
        assert not world.config.eval_at_end or world.evaluated[-1] == steps
        done = [*(task for step in world.trained for task in step), *world.rejected]
        assert sorted(done) == list(range(steps * size + len(world.rejected))), "every task once, trained or rejected"


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = hypothesis.settings(
    max_examples=200,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,  # a failure must be the change's, not the day's
    database=None,
    phases=[hypothesis.Phase.generate],  # shrinking takes minutes; add Phase.shrink to study a failure
    suppress_health_check=list(hypothesis.HealthCheck),
)


@pytest.mark.parametrize("staleness", [0, 1, 2, 5])
def test_staleness_reaches_its_bound_and_no_more(staleness: int) -> None:
    """With a learner slower than the engines, the oldest token trained is exactly max_staleness versions old."""
    config = SchedulerConfig(
        groups_per_step=2,
        total_steps=12,
        max_staleness=staleness,
        publish_every=1,
        eval_every=0,
        eval_at_start=False,
        eval_at_end=False,
        checkpoint_every=0,
    )
    world = World(config)
    world.join("a", 0, 100)
    ages = []
    while not world.scheduler.done:
        while world.running or world.scoring:
            if world.running:
                world.finish_group(min(world.running))
            else:
                world.score(min(world.scoring))
        if world.training is not None:
            ages += [world.learner - world.oldest_token[number] for number in world.training]
            world.finish_step()
        if world.publishing is not None:
            world.confirm_publication("a")
        if world.writing is not None:
            world.write_checkpoint()
    assert max(ages) == staleness


def test_an_engine_that_did_not_take_its_weights_is_caught() -> None:
    """Tokens older than what the worker confirmed stop the run: they would break the bound unseen."""
    config = SchedulerConfig(
        groups_per_step=1,
        total_steps=2,
        max_staleness=0,
        publish_every=1,
        eval_every=0,
        eval_at_start=False,
        eval_at_end=False,
        checkpoint_every=0,
    )
    world = World(config)
    world.join("a", 0, 1)
    world.finish_group((0, 1))
    world.score((0, 1))
    world.finish_step()
    world.confirm_publication("a")
    with pytest.raises(SchedulerError, match="tokens of version 0, but worker a had confirmed version 1"):
        world.scheduler.handle(events.GroupFinished(group=1, attempt=1, min_version=0))
