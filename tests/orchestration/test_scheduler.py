"""The scheduler's decisions, one at a time, against lists written by hand."""

import time
from collections import deque
from collections.abc import Iterable

import pytest

from orchestration import actions, events
from orchestration.actions import (
    Action,
    Checkpoint,
    Evaluate,
    Publish,
    SchedulerState,
    ScoreGroup,
    SyncWorker,
    TakeUpGroup,
    Train,
)
from orchestration.errors import SchedulerError
from orchestration.scheduler import Scheduler, SchedulerConfig
from orchestration.wait import WaitFor


def config(**changes: object) -> SchedulerConfig:
    """Two groups a step, four steps, one version of staleness, no evaluation: what a test needs otherwise it says."""
    plain = {
        "groups_per_step": 2,
        "total_steps": 4,
        "max_staleness": 1,
        "publish_every": 1,
        "eval_every": 0,
        "eval_at_start": False,
        "eval_at_end": False,
        "checkpoint_every": 0,
    }
    return SchedulerConfig(**{**plain, **changes})


def joined(scheduler: Scheduler, name: str = "a", version: int = 0, capacity: int = 100) -> list[Action]:
    return scheduler.handle(events.WorkerJoined(worker=name, version=version, capacity=capacity))


def start(group: int, *, version: int = 0, worker: str = "a", attempt: int = 1, task: int | None = None) -> Action:
    task = group if task is None else task
    return actions.StartGroup(group=group, task_index=task, version=version, worker=worker, attempt=attempt)


def finish(scheduler: Scheduler, groups: Iterable[int], version: int = 0, attempt: int = 1) -> list[Action]:
    """Groups are generated and scored, in this order; the actions that follow, without ScoreGroup."""
    out = []
    for group in groups:
        out += scheduler.handle(events.GroupFinished(group=group, attempt=attempt, min_version=version))
        out += scheduler.handle(events.VerdictsArrived(group=group, attempt=attempt))
    return [action for action in out if not isinstance(action, ScoreGroup)]


def answer(action: Action) -> events.Event:
    """The event of a world in which everything works at once."""
    match action:
        case actions.StartGroup(group=group, attempt=attempt, version=version):
            return events.GroupFinished(group=group, attempt=attempt, min_version=version)
        case ScoreGroup(group=group, attempt=attempt):
            return events.VerdictsArrived(group=group, attempt=attempt)
        case Train(step=step):
            return events.StepTrained(version=step + 1)
        case Publish(version=version):
            return events.WeightsPublished(version=version)
        case SyncWorker(worker=worker, version=version):
            return events.WorkerSynced(worker=worker, version=version)
        case Evaluate(version=version):
            return events.EvaluationFinished(version=version)
        case Checkpoint(version=version):
            return events.CheckpointWritten(version=version)


def run(scheduler: Scheduler, workers: int = 1, capacity: int = 100) -> list[Action]:
    """Every action of a run in which everything works, answered in order."""
    log = scheduler.begin()
    queue = deque(answer(action) for action in log)
    queue += [events.WorkerJoined(worker=f"w{i}", version=0, capacity=capacity) for i in range(workers)]
    while not scheduler.done:
        out = scheduler.handle(queue.popleft())
        log += out
        queue += map(answer, out)
    return log


def versions(log: list[Action], kind: type) -> list[int]:
    return [action.version for action in log if isinstance(action, kind)]


def test_the_example_of_the_docstring() -> None:
    """P = 2, S = 1: four groups start, the two oldest train, and publication alone lets the next two start."""
    scheduler = Scheduler(config())
    assert scheduler.begin() == []
    assert joined(scheduler) == [start(0), start(1), start(2), start(3)]
    assert scheduler.handle(events.GroupFinished(group=1, attempt=1, min_version=0)) == [ScoreGroup(group=1, attempt=1)]
    assert scheduler.handle(events.VerdictsArrived(group=1, attempt=1)) == []
    assert finish(scheduler, [0]) == [Train(step=0, groups=(0, 1))]
    assert finish(scheduler, [2, 3]) == []
    assert scheduler.handle(events.StepTrained(version=1)) == [
        Publish(version=1, workers=("a",)),
        Train(step=1, groups=(2, 3)),
    ]
    assert scheduler.handle(events.WeightsPublished(version=1)) == [start(4, version=1), start(5, version=1)]


def test_synchronous_training_alternates() -> None:
    """S = 0: generate, train, publish, and again; never two of them at once."""
    scheduler = Scheduler(config(max_staleness=0, total_steps=2))
    assert joined(scheduler) == [start(0), start(1)]
    assert finish(scheduler, [1, 0]) == [Train(step=0, groups=(0, 1))]
    assert scheduler.handle(events.StepTrained(version=1)) == [Publish(version=1, workers=("a",))]
    assert scheduler.handle(events.WeightsPublished(version=1)) == [start(2, version=1), start(3, version=1)]
    assert finish(scheduler, [2, 3], version=1) == [Train(step=1, groups=(2, 3))]
    last = scheduler.handle(events.StepTrained(version=2))
    assert last == [Checkpoint(version=2, state=scheduler.state()), Publish(version=2, workers=("a",))]
    assert scheduler.handle(events.WeightsPublished(version=2)) == []
    assert not scheduler.done
    assert scheduler.handle(events.CheckpointWritten(version=2)) == []
    assert scheduler.done


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"eval_every": 2, "eval_at_start": True, "eval_at_end": True, "total_steps": 5}, [0, 2, 4, 5]),
        ({"eval_every": 2, "total_steps": 5}, [2, 4]),
        ({"eval_every": 2, "eval_at_end": True}, [2, 4]),
        ({"eval_at_start": True}, [0]),
        ({}, []),
        # Published are 3, 6, 7: the first at or past each multiple of 2, once.
        ({"eval_every": 2, "publish_every": 3, "max_staleness": 2, "total_steps": 7}, [3, 6]),
    ],
)
def test_when_evaluations_are_due(changes: dict, expected: list[int]) -> None:
    """At the start, at multiples of eval_every or the first published version past one, and at the end; never twice."""
    assert versions(run(Scheduler(config(**changes))), Evaluate) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({}, [4]), ({"checkpoint_every": 2}, [2, 4]), ({"checkpoint_every": 3, "total_steps": 7}, [3, 6, 7])],
)
def test_when_checkpoints_are_due(changes: dict, expected: list[int]) -> None:
    """At multiples of checkpoint_every and at the end."""
    assert versions(run(Scheduler(config(**changes))), Checkpoint) == expected


def test_publishing_every_k_steps_and_at_the_end() -> None:
    """k = S + 1 = 3 still moves; versions between are never published, the last one is."""
    log = run(Scheduler(config(publish_every=3, max_staleness=2, total_steps=7)))
    assert versions(log, Publish) == [3, 6, 7]
    assert [action.step for action in log if isinstance(action, Train)] == list(range(7))


def test_nothing_starts_before_the_first_evaluation_has_ended() -> None:
    """The clock of training starts clean: with eval_at_start the engines do nothing else at first."""
    scheduler = Scheduler(config(eval_at_start=True, max_staleness=0))
    assert joined(scheduler) == [Evaluate(version=0, workers=("a",))]
    assert scheduler.handle(events.EvaluationFinished(version=0)) == [start(0), start(1)]


def test_a_publication_waits_for_the_evaluation_and_takes_the_newest_weights() -> None:
    """During the evaluation of version 1 versions 2 and 3 are trained; afterwards 3 is published, 2 never."""
    scheduler = Scheduler(config(eval_every=1, max_staleness=2))
    joined(scheduler)
    finish(scheduler, range(6))
    assert scheduler.handle(events.StepTrained(version=1))[0] == Publish(version=1, workers=("a",))
    assert scheduler.handle(events.WeightsPublished(version=1)) == [
        Evaluate(version=1, workers=("a",)),
        start(6, version=1),
        start(7, version=1),
    ]
    assert scheduler.handle(events.StepTrained(version=2)) == [Train(step=2, groups=(4, 5))]
    assert scheduler.handle(events.StepTrained(version=3)) == []
    assert scheduler.handle(events.EvaluationFinished(version=1)) == [Publish(version=3, workers=("a",))]


def test_an_evaluation_comes_before_the_next_publication() -> None:
    """Version 1 is due for evaluation; version 2, trained meanwhile, must not be published over it."""
    scheduler = Scheduler(config(eval_every=1, max_staleness=2))
    joined(scheduler)
    finish(scheduler, range(4))
    scheduler.handle(events.StepTrained(version=1))  # publishes 1, trains 1 -> 2
    assert scheduler.handle(events.StepTrained(version=2)) == []
    out = scheduler.handle(events.WeightsPublished(version=1))
    assert out[0] == Evaluate(version=1, workers=("a",))
    assert versions(out, Publish) == []


def test_a_publication_never_takes_weights_in_the_middle_of_a_step() -> None:
    """The learner is serial: a snapshot asked for during a step would be of the step's result."""
    scheduler = Scheduler(config(max_staleness=2))
    joined(scheduler)
    finish(scheduler, range(6))
    scheduler.handle(events.StepTrained(version=1))  # publishes 1, trains 1 -> 2
    assert scheduler.handle(events.StepTrained(version=2)) == [Train(step=2, groups=(4, 5))]
    published = scheduler.handle(events.WeightsPublished(version=1))
    assert published == [start(6, version=1), start(7, version=1)]
    assert scheduler.handle(events.StepTrained(version=3)) == [Publish(version=3, workers=("a",))]


def test_a_lost_worker_costs_its_groups_a_second_attempt() -> None:
    """The groups that ran there start again elsewhere, oldest first; what was generated stays; late news is ignored."""
    scheduler = Scheduler(config())
    joined(scheduler, "a", capacity=2)
    joined(scheduler, "b", capacity=2)
    scheduler.handle(events.GroupFinished(group=0, attempt=1, min_version=0))
    assert scheduler.handle(events.WorkerLost(worker="a")) == []  # b has no room
    assert not scheduler.is_current(1, 1)
    assert scheduler.handle(events.GroupFinished(group=1, attempt=1, min_version=0)) == []
    out = scheduler.handle(events.GroupFinished(group=2, attempt=1, min_version=0))
    assert out == [ScoreGroup(group=2, attempt=1), start(1, worker="b", attempt=2)]
    assert scheduler.is_current(1, 2)
    assert scheduler.handle(events.VerdictsArrived(group=0, attempt=1)) == []
    assert finish(scheduler, [1], attempt=2) == [Train(step=0, groups=(0, 1))]


def test_groups_go_to_the_least_loaded_worker_and_never_above_its_room() -> None:
    """Loads stay level: 6 groups on workers with room for 1, 2 and 8 are spread 1, 2, 3."""
    scheduler = Scheduler(config(groups_per_step=3, eval_at_start=True))
    joined(scheduler, "a", capacity=1)
    joined(scheduler, "b", capacity=2)
    joined(scheduler, "c", capacity=8)
    started = scheduler.handle(events.EvaluationFinished(version=0))
    assert [action.worker for action in started] == ["a", "b", "c", "b", "c", "c"]


def test_a_worker_that_joins_late_is_brought_to_the_published_version_first() -> None:
    """It gets groups only when it has confirmed that version, and again when it missed a publication meanwhile."""
    scheduler = Scheduler(config())
    joined(scheduler, "a", capacity=1)
    assert joined(scheduler, "b", version=-1) == [SyncWorker(worker="b", version=0)]
    finish(scheduler, [0, 1])
    assert scheduler.handle(events.StepTrained(version=1)) == [Publish(version=1, workers=("a",))]
    assert scheduler.handle(events.WeightsPublished(version=1)) == []
    assert scheduler.handle(events.WorkerSynced(worker="b", version=0)) == [SyncWorker(worker="b", version=1)]
    started = scheduler.handle(events.WorkerSynced(worker="b", version=1))
    assert started == [start(group, version=1, worker="b") for group in (3, 4, 5)]


def test_a_worker_that_missed_a_publication_gets_no_group_until_it_has_caught_up() -> None:
    """Joined with the old version while the new one was being confirmed: behind from then on."""
    scheduler = Scheduler(config(max_staleness=0))
    joined(scheduler, "a", capacity=1)
    finish(scheduler, [0, 1])
    scheduler.handle(events.StepTrained(version=1))
    assert joined(scheduler, "b", version=0) == []
    out = scheduler.handle(events.WeightsPublished(version=1))
    assert out == [SyncWorker(worker="b", version=1), start(2, version=1)]
    assert scheduler.handle(events.WorkerSynced(worker="b", version=1)) == [start(3, version=1, worker="b")]


def test_a_worker_that_rejoins_during_a_publication_is_not_taken_for_updated() -> None:
    """Its new life has not confirmed anything, whatever the others confirm."""
    scheduler = Scheduler(config(max_staleness=0))
    joined(scheduler)
    finish(scheduler, [0, 1])
    assert scheduler.handle(events.StepTrained(version=1)) == [Publish(version=1, workers=("a",))]
    scheduler.handle(events.WorkerLost(worker="a"))
    assert joined(scheduler, "a", version=0) == []
    assert scheduler.handle(events.WeightsPublished(version=1)) == [SyncWorker(worker="a", version=1)]


def test_a_late_worker_that_was_sent_the_version_in_publication_is_left_alone() -> None:
    """A second update would be the same bytes again; it counts as published together with the others."""
    scheduler = Scheduler(config(max_staleness=0))
    joined(scheduler)
    finish(scheduler, [0, 1])
    scheduler.handle(events.StepTrained(version=1))
    assert joined(scheduler, "b", version=-1) == [SyncWorker(worker="b", version=0)]
    assert scheduler.handle(events.WorkerSynced(worker="b", version=1)) == []
    out = scheduler.handle(events.WeightsPublished(version=1))
    assert out == [start(2, version=1), start(3, version=1, worker="b")]


def test_a_failed_group_is_tried_again_and_then_stops_the_run_by_name() -> None:
    """max_retries = 2: three failures of the same group are one too many."""
    scheduler = Scheduler(config(max_retries=2))
    joined(scheduler)
    for attempt in (1, 2):
        failed = events.GroupFailed(group=3, attempt=attempt, reason="the verifier has no compiler")
        assert scheduler.handle(failed) == [start(3, attempt=attempt + 1)]
        assert scheduler.handle(failed) == [], "said twice"
    with pytest.raises(SchedulerError, match=r"group 3 \(task 3\) failed 3 times.* the verifier has no compiler"):
        scheduler.handle(events.GroupFailed(group=3, attempt=3, reason="the verifier has no compiler"))


def test_a_failed_evaluation_is_tried_again_and_then_stops_the_run() -> None:
    """max_retries = 1: the second failure is one too many."""
    scheduler = Scheduler(config(eval_at_start=True, max_retries=1))
    evaluate = Evaluate(version=0, workers=("a",))
    assert joined(scheduler) == [evaluate]
    assert scheduler.handle(events.EvaluationFailed(version=0, reason="worker a was lost")) == [evaluate]
    with pytest.raises(SchedulerError, match="evaluation of version 0 failed 2 times.*worker a was lost"):
        scheduler.handle(events.EvaluationFailed(version=0, reason="worker a was lost"))


def test_stopping_finishes_the_step_and_writes_a_checkpoint() -> None:
    """Nothing new starts; what is in flight is owed to the resumed run."""
    scheduler = Scheduler(config())
    joined(scheduler)
    finish(scheduler, [0, 1])
    assert scheduler.handle(events.StopRequested()) == []
    assert scheduler.handle(events.GroupFinished(group=2, attempt=1, min_version=0)) == []
    owed = SchedulerState(version=1, evaluated=-1, trained_groups=2, untrained_tasks=(2, 3), next_task=4)
    assert scheduler.handle(events.StepTrained(version=1)) == [Checkpoint(version=1, state=owed)]
    assert not scheduler.done
    assert scheduler.handle(events.CheckpointWritten(version=1)) == []
    assert scheduler.done


def test_stopping_an_idle_learner_ends_at_once_where_the_checkpoint_is_there() -> None:
    """A resumed run that is stopped before its first step has nothing new to write."""
    state = SchedulerState(version=1, evaluated=-1, trained_groups=2, untrained_tasks=(2, 3), next_task=4)
    scheduler = Scheduler(config(), state)
    assert scheduler.handle(events.StopRequested()) == []
    assert scheduler.done


def test_a_resumed_run_starts_with_what_it_owes() -> None:
    """Tasks admitted and not trained come before new ones, in their order, and numbers continue."""
    state = SchedulerState(version=1, evaluated=0, trained_groups=2, untrained_tasks=(7, 3, 9), next_task=12)
    scheduler = Scheduler(config(eval_at_start=True), SchedulerState.from_json(state.as_json()))
    assert scheduler.state() == state
    assert joined(scheduler, version=0) == [SyncWorker(worker="a", version=1)]
    started = scheduler.handle(events.WorkerSynced(worker="a", version=1))
    expected = [start(2 + i, version=1, task=task) for i, task in enumerate((7, 3, 9, 12))]
    assert started == expected


def taken_up(group: int, task: int, attempt: int = 1) -> Action:
    return TakeUpGroup(group=group, task_index=task, version=3, attempt=attempt)


def test_what_an_earlier_process_drew_is_taken_up_where_the_bound_allows() -> None:
    """S = 1, resumed at version 3: groups 6, 7 are for step 3 and 8, 9 for step 4, where a token of 2 is too old."""
    state = SchedulerState(version=3, evaluated=-1, trained_groups=6, untrained_tasks=(7, 6, 8), next_task=9)
    scheduler = Scheduler(config(total_steps=9), state, {7: 2, 8: 2, 9: 3, 11: 3})
    assert scheduler.begin() == [taken_up(6, task=7)], "without any worker"
    assert joined(scheduler, version=3, capacity=1) == [start(7, version=3, task=6)]
    assert scheduler.handle(events.GroupFinished(group=6, attempt=1, min_version=2)) == [ScoreGroup(group=6, attempt=1)]
    finished = scheduler.handle(events.GroupFinished(group=7, attempt=1, min_version=3))
    assert finished == [ScoreGroup(group=7, attempt=1), start(8, version=3, task=8), taken_up(9, task=9)]
    failed = events.GroupFailed(group=9, attempt=1, reason="a test says so")
    assert scheduler.handle(failed) == [], "it needs a worker now, and the only one is busy"
    out = scheduler.handle(events.GroupFinished(group=8, attempt=1, min_version=3))
    assert out == [ScoreGroup(group=8, attempt=1), start(9, version=3, task=9, attempt=2)]


def test_an_evaluation_that_the_crash_cut_short_is_made_up_for() -> None:
    """Checkpoint and evaluation both fall on version 2; the crash comes between them."""
    state = SchedulerState(version=2, evaluated=0, trained_groups=4, untrained_tasks=(), next_task=4)
    scheduler = Scheduler(config(eval_every=2, eval_at_start=True), state)
    assert joined(scheduler, version=2)[0] == Evaluate(version=2, workers=("a",))


def test_a_checkpoint_of_more_steps_than_the_run_has_is_refused() -> None:
    state = SchedulerState(version=5, evaluated=-1, trained_groups=10, untrained_tasks=(), next_task=10)
    with pytest.raises(SchedulerError, match="has 5 steps and total_steps is 4: raise total_steps"):
        Scheduler(config(), state)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups_per_step": 0}, "groups_per_step is at least 1, got 0"),
        ({"max_staleness": -1}, "max_staleness is at least 0, got -1"),
        ({"publish_every": 3}, "publish_every=3 with max_staleness=1 .* at most 2, or max_staleness to at least 2"),
    ],
)
def test_an_impossible_pace_is_refused(changes: dict, message: str) -> None:
    """Before anything starts, with the value and what to write instead."""
    with pytest.raises(ValueError, match=message):
        config(**changes)


@pytest.mark.parametrize(
    "event",
    [
        events.StepTrained(version=1),
        events.WeightsPublished(version=1),
        events.EvaluationFinished(version=0),
        events.CheckpointWritten(version=1),
        events.WorkerJoined(worker="b", version=0, capacity=0),
    ],
)
def test_news_of_what_nobody_asked_for_stops_the_run(event: events.Event) -> None:
    """A scheduler that does not know what is going on must not go on."""
    scheduler = Scheduler(config())
    joined(scheduler)
    with pytest.raises(SchedulerError):
        scheduler.handle(event)


def test_waiting_on_says_who_is_waited_for() -> None:
    """Each entry completes "the run waits for ..."."""
    scheduler = Scheduler(config())
    assert [str(wait) for wait in scheduler.waiting_on] == ["a rollout worker to join"]
    joined(scheduler)
    joined(scheduler, "b", version=-1)
    finish(scheduler, [0, 1])
    scheduler.handle(events.GroupFinished(group=3, attempt=1, min_version=0))
    assert {wait.kind: str(wait) for wait in scheduler.waiting_on} == {
        WaitFor.LEARNER: "the learner to finish step 0",
        WaitFor.GENERATION: "1 groups to be generated, the oldest is group 2 (task 2, attempt 1, from worker a)",
        WaitFor.VERDICTS: "1 groups to be scored, the oldest is group 3 (task 3, attempt 1, from worker a)",
        WaitFor.SYNC: "version 0 to be confirmed by b",
    }
    scheduler.handle(events.StepTrained(version=1))
    assert "version 1 to be confirmed by a" in [str(wait) for wait in scheduler.waiting_on]


def test_the_cost_of_an_event_does_not_grow_with_the_fleet() -> None:
    """4 096 workers cost less than three times as much per event as 16 (a linear search would be 250 times)."""

    def seconds_per_group(workers: int) -> float:
        scheduler = Scheduler(config(groups_per_step=2048, total_steps=3))
        before = time.process_time()
        run(scheduler, workers=workers, capacity=1024)
        return time.process_time() - before

    few = min(seconds_per_group(16) for _ in range(2))
    assert min(seconds_per_group(4096) for _ in range(2)) < 3 * few
