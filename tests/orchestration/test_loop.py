"""The run loop with fakes at its three seams: what it promises holds whatever the services do."""

import sqlite3
from collections import Counter

import pytest

from orchestration.config import EvaluationConfig
from orchestration.errors import SchedulerError, StallError, WorkerFailure
from orchestration.journal import Journal
from orchestration.launch import still_owed
from reward.config import RewardConfig
from reward.messages import Status
from rollout.draw.control import Scheduled
from rollout.errors import RolloutError, SelfCheckError
from rollout.strategies import SecondRollout
from tests.orchestration.journal.records import rollout
from tests.orchestration.loop_fakes import FakeServices, plan_of, run, staleness


def test_the_temperature_follows_its_controller_through_a_resume(tmp_path):
    """A schedule goes on where it stopped; synchronous, each step is drawn at its own temperature."""
    plan = plan_of(max_staleness=0)
    plan.temperature = Scheduled(start=1.5, end=1.0, steps=5)
    first, second = FakeServices(), FakeServices()
    run(tmp_path, plan, first, stop_at=3)
    run(tmp_path, plan, second)
    drawn = [float(batch.samples[0].temperatures[0]) for batch in first.learner.batches + second.learner.batches]
    assert drawn == pytest.approx([1.5, 1.4, 1.3, 1.2, 1.1, 1.0], abs=1e-6)


def test_a_strategys_second_temperature_has_a_controller_of_its_own(tmp_path):
    """It observes every step, goes on after a resume, and reaches what is trained alone."""
    plan = plan_of(max_staleness=0)
    plan.strategy = SecondRollout(second=Scheduled(start=1.5, end=1.0, steps=5))
    first, second = FakeServices(), FakeServices()
    run(tmp_path, plan, first, stop_at=3)
    run(tmp_path, plan, second)
    asked = first.requests + second.requests
    assert {one.second_temperature for one in asked if not one.trained} == {None}
    drawn = [one.second_temperature.temperature for one in asked if one.trained]
    assert drawn[::3] == pytest.approx([1.5, 1.4, 1.3, 1.2, 1.1, 1.0], abs=1e-6)
    assert drawn[::3] == drawn[1::3] == drawn[2::3]


@pytest.mark.parametrize("bound", [0, 1, 3])
def test_every_task_is_trained_once_and_no_token_is_older_than_the_bound(tmp_path, bound):
    """All steps are taken, tasks 0 .. N - 1 once each and in order, and staleness never exceeds max_staleness."""
    services = FakeServices()
    report, trained = run(tmp_path, plan_of(max_staleness=bound), services)
    assert (report.version, report.completed) == (6, True)
    assert trained == [(i // 3, i) for i in range(18)]
    assert max(staleness(services.learner.batches)) <= bound


def test_asynchronous_training_really_overlaps(tmp_path):
    """With max_staleness = 1 some tokens are one version old; otherwise the test above would prove nothing."""
    services = FakeServices()
    run(tmp_path, plan_of(), services)
    assert 1 in staleness(services.learner.batches)


def test_a_lost_rollout_worker_costs_nothing_but_a_rerun(tmp_path):
    """A worker dies with groups in flight: it is replaced, and every task is still trained exactly once."""
    services = FakeServices(die_at={"rollout-0": 5, "rollout-1": 9})
    report, trained = run(tmp_path, plan_of(), services)
    assert report.completed
    assert [task for _, task in trained] == list(range(18))
    assert services.started == 4


def test_stop_and_resume_trains_no_task_twice(tmp_path):
    """Stopped after step 3 and resumed, the run ends as one that was never stopped."""
    report, _ = run(tmp_path, plan_of(), FakeServices(), stop_at=3)
    assert 3 <= report.version < 6
    assert not report.completed
    report, trained = run(tmp_path, plan_of(), FakeServices())
    assert report.completed
    assert Counter(task for _, task in trained) == Counter(range(18))


def test_what_a_dead_process_drew_is_trained_and_not_drawn_again(tmp_path):
    """The learner fails in its first step: of the next process, no task that version 0 drew is asked for once more."""
    first, second = FakeServices(), FakeServices()

    async def fail(batch):
        raise WorkerFailure("learner-0 died", worker="learner-0", died=True)

    first.learner.train = fail
    with pytest.raises(WorkerFailure, match="learner-0 died"):
        run(tmp_path, plan_of(), first)
    database = sqlite3.connect(tmp_path / "journal.sqlite")
    drawn = {task for (task,) in database.execute("SELECT task_index FROM draws")}
    judged = {task for (task,) in database.execute("SELECT DISTINCT task_index FROM verdicts")}
    database.close()
    assert len(drawn) >= 3
    asked = []
    verify = second.verifier.verify

    async def remember(requests):
        asked.extend(int(request.group) for request in requests if request.group.isdecimal())
        return await verify(requests)

    second.verifier.verify = remember
    report, trained = run(tmp_path, plan_of(), second)
    assert report.completed
    assert [task for _, task in trained] == list(range(18))
    again = {int(one.group_id.partition(".")[0]) for one in second.requests if one.trained}
    assert again == set(range(18)) - drawn
    assert set(asked) == set(range(18)) - judged, "nor judged again"
    assert max(staleness(second.learner.batches)) <= 1


def test_draws_for_another_prompt_or_group_size_are_not_taken_up(tmp_path):
    """Task source or group size were overridden on the resume."""
    with Journal.open(tmp_path / "journal.sqlite") as journal:
        journal.resume(0)
        ones = [rollout(index) for index in range(2)]  # the prompt is (5, 6)
        journal.add_draw(group=0, attempt=1, task_index=0, task_id="t", prompt="p", rollouts=ones)
        assert still_owed(plan_of(), journal, lambda task: (5, 6)) == {0: 0}
        assert still_owed(plan_of(), journal, lambda task: (5, 7)) == {}
        assert still_owed(plan_of(group_size=3), journal, lambda task: (5, 6)) == {}


def test_the_best_checkpoint_stays(tmp_path):
    """Steps 2, 4 and 6 are evaluated; the first of equal scores stays beside the two newest."""
    plan = plan_of(checkpoint_every=2, keep_best=1)
    run(tmp_path, plan, FakeServices())
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir())[:2] == ["best", "latest"]


def test_groups_that_cannot_be_judged_stop_the_run_after_their_retries(tmp_path):
    """Verdicts of status `error` are never trained on: the group runs again, then the run stops with the reason."""
    services = FakeServices(status=Status.ERROR)
    plan = plan_of()
    plan.eval = EvaluationConfig(every=0, at_start=False, at_end=False, tasks=1)
    with pytest.raises(SchedulerError, match=r"no response could be judged \(error: so\)"):
        run(tmp_path, plan, services)
    assert not services.learner.batches


@pytest.mark.parametrize("status", [Status.TIMEOUT, Status.RESOURCE])
def test_responses_that_met_a_limit_are_trained_with_reward_0_only_where_asked_for(tmp_path, status):
    """Dropped by default, which here leaves nothing of any group; with drop=[error] they count as 0, not as written."""
    plan = plan_of()
    plan.eval = EvaluationConfig(every=0, at_start=False, at_end=False, tasks=1)
    for folder in ("dropped", "trained"):
        (tmp_path / folder).mkdir()
    with pytest.raises(SchedulerError, match=rf"no response could be judged \({status}: so\)"):
        run(tmp_path / "dropped", plan, FakeServices(status=status))
    plan.reward = RewardConfig(drop=(Status.ERROR,))
    services = FakeServices(status=status)
    report, _ = run(tmp_path / "trained", plan, services)
    assert report.completed
    assert [sample.reward for batch in services.learner.batches for sample in batch.samples] == [0.0] * 6 * 3 * 2


def test_a_worker_that_confirms_other_weights_stops_the_run(tmp_path):
    """A silent non-update is impossible: the confirmation must name the version that was sent."""
    with pytest.raises(RolloutError, match="confirmed v-1 .* but was sent v0"):
        run(tmp_path, plan_of(), FakeServices(confirms_behind=1))


def test_workers_are_checked_against_the_learner_before_the_first_group(tmp_path):
    """Engines that agree start the run; one that does not stops it before any group is drawn or trained."""
    (tmp_path / "sound").mkdir()
    (tmp_path / "broken").mkdir()
    assert run(tmp_path / "sound", plan_of(self_check=True), FakeServices())[0].completed
    services = FakeServices()
    services.learner.off = 0.5
    with pytest.raises(SelfCheckError, match=r"rollout-[01] records entropies at T=1 that are 0.5 nats"):
        run(tmp_path / "broken", plan_of(self_check=True), services)
    assert services.requests
    assert all(one.group_id.startswith("self-check") for one in services.requests)


def test_a_stall_says_who_is_waited_for(tmp_path):
    """When nothing happens before the deadline the run stops with a sentence, and the actors' stacks are asked for."""
    services = FakeServices(hangs=True)
    with pytest.raises(StallError, match="while the run waits for the evaluation of version 0"):
        run(tmp_path, plan_of(stall_deadline_s=0.3), services)
    assert services.stacks_dumped


def test_a_group_that_teaches_nothing_makes_room_for_the_next_task(tmp_path):
    """Of twelve tasks two are all right: each step still has its three groups, of tasks 0 to 7 and no others."""
    plan = plan_of(steps=2, max_staleness=0)
    plan.algorithm.refill = True
    services = FakeServices()
    services.verifier.all_right = (1, 4)
    _, trained = run(tmp_path, plan, services)
    assert [step for step, _ in trained] == [0, 0, 0, 1, 1, 1]
    assert sorted(task for _, task in trained) == [0, 2, 3, 5, 6, 7]
    with sqlite3.connect(tmp_path / "journal.sqlite") as database:
        rejected = database.execute("SELECT task_index, trained_version, reward_mean FROM rejections").fetchall()
    assert rejected == [(1, 0, 1.0), (4, 1, 1.0)]


def test_a_policy_that_knows_everything_still_ends_its_run(tmp_path):
    """After so many refills a group is trained as it is; without any, none is rejected."""
    services = FakeServices()
    services.verifier.all_right = tuple(range(100))
    plan = plan_of(steps=1, max_refills=2)
    plan.algorithm.refill = True
    assert len(run(tmp_path, plan, services)[1]) == 3
    assert len({request.group_id for request in services.requests if request.trained}) == 9


def test_engines_sleep_while_the_learner_works(tmp_path):
    """Every engine, in every step, evaluations waiting for their turn; the publication that follows wakes them."""
    services = FakeServices()
    train = services.learner.train

    async def train_alone(batch):
        assert all(worker.asleep for worker in services.workers)
        return await train(batch)

    services.learner.train = train_alone
    report, trained = run(tmp_path, plan_of(sleep=True, max_staleness=0), services)
    assert (report.completed, len(trained), services.slept) == (True, 18, 12)
