"""An independent account of a run, for tests of the scheduler.

`World` holds what the engines, the learner and the disk really hold, starts what the scheduler asks for, and checks
each action against its own books.
"""

from collections import Counter

from orchestration import actions, events
from orchestration.actions import SchedulerState
from orchestration.scheduler import Scheduler, SchedulerConfig


class World:
    def __init__(self, config: SchedulerConfig) -> None:
        self.config = config
        self.trained: list[list[int]] = []  # step -> task indices
        self.checkpoint: SchedulerState | None = None
        self.evaluated_at_checkpoint: list[int] = []
        self.rejected_at_checkpoint: list[int] = []
        self.line = [0]  # version -> which weights got it; a version may be made twice, by different processes
        self.made = 0
        self.journal: dict[int, dict[int, int]] = {}  # task -> version of a token -> the weights that drew it
        self.boot()

    def boot(self) -> None:
        """A new process: everything in memory is gone, the learner holds the checkpoint."""
        start = self.checkpoint.version if self.checkpoint else 0
        self.trained = self.trained[:start]
        self.line = self.line[: start + 1]
        self.journal = {task: draw for task, draw in self.journal.items() if max(draw) <= start}
        done = {task for step in self.trained for task in step} | set(self.rejected_at_checkpoint)
        drawn = {task: min(draw) for task, draw in self.journal.items() if task not in done}
        self.learner = self.published = start
        self.engines: dict[str, int] = {}  # worker -> version it really holds
        self.capacity: dict[str, int] = {}
        self.running: dict[tuple[int, int], tuple[str, int]] = {}  # (group, attempt) -> worker, oldest token's version
        self.taken_up: set[tuple[int, int]] = set()  # (group, attempt)
        self.given_up: list[tuple[int, int]] = []  # attempts whose late news may still arrive
        self.oldest_token: dict[int, int] = {}
        self.tasks: dict[int, int] = {}  # group -> its present task, in order of admission
        self.attempts: Counter[int] = Counter()
        self.failures: Counter[int | str] = Counter()
        self.scoring: set[tuple[int, int]] = set()
        self.may_reject: set[tuple[int, int]] = set()
        self.rejected = list(self.rejected_at_checkpoint)  # tasks
        self.refills: Counter[int] = Counter()
        self.without_task: set[int] = set()
        self.scored: set[int] = set()
        self.to_restart: set[int] = set()
        self.consumed = 0  # admitted groups that were taken by a step
        self.training: tuple[int, ...] | None = None
        self.publishing: int | None = None
        self.unconfirmed: set[str] = set()
        self.syncing: dict[str, int] = {}
        self.evaluating: int | None = None
        self.evaluated = list(self.evaluated_at_checkpoint)
        self.writing: SchedulerState | None = None
        self.stopping = False
        self.first = start
        self.scheduler = Scheduler(self.config, self.checkpoint, drawn)
        self.apply(self.scheduler.begin())

    def tell(self, event: events.Event) -> None:
        assert not self.scheduler.done
        self.apply(self.scheduler.handle(event))

    def apply(self, todo: list[actions.Action]) -> None:
        for action in todo:
            match action:
                case actions.StartGroup():
                    self.start_group(action)
                case actions.TakeUpGroup(group=group, task_index=task, version=version, attempt=attempt):
                    assert task in self.journal
                    assert version == self.published
                    self.admit(group, task, attempt)
                    self.taken_up.add((group, attempt))
                case actions.ScoreGroup(group=group, attempt=attempt, may_reject=may_reject):
                    assert self.attempts[group] == attempt
                    self.scoring.add((group, attempt))
                    assert may_reject == (self.refills[group] < self.config.refills)
                    if may_reject:
                        self.may_reject.add((group, attempt))
                case actions.Train():
                    self.train(action)
                case actions.Publish(version=version, workers=workers):
                    assert version == self.learner, "a snapshot of other weights"
                    assert self.training is None, "a snapshot of other weights"
                    assert self.publishing is None
                    assert self.evaluating is None
                    assert not set(workers) & set(self.syncing), "two updates of one engine at once"
                    self.publishing, self.unconfirmed = version, set(workers)
                case actions.SyncWorker(worker=worker, version=version):
                    assert version == self.published
                    assert worker in self.engines
                    assert worker not in self.syncing
                    assert worker not in self.unconfirmed
                    self.syncing[worker] = version
                case actions.Evaluate(version=version, workers=workers):
                    assert self.publishing is None
                    assert self.evaluating is None
                    assert version == self.published
                    assert workers
                    assert all(self.engines[worker] == version for worker in workers)
                    assert not (self.config.take_turns and self.training), "not their turn"
                    self.evaluating = version
                case actions.Checkpoint(version=version, state=state):
                    assert version == state.version == self.learner
                    assert self.training is None
                    assert self.writing is None
                    self.writing, self.evaluated_at_writing = state, list(self.evaluated)
                    self.rejected_at_writing = list(self.rejected)

    def start_group(self, action: actions.StartGroup) -> None:
        worker, number = action.worker, action.group
        assert self.engines[worker] >= self.published == action.version
        assert worker not in self.syncing
        self.admit(number, action.task_index, action.attempt)
        self.running[number, action.attempt] = (worker, self.engines[worker])
        assert self.load(worker) <= self.capacity[worker]

    def admit(self, number: int, task: int, attempt: int) -> None:
        assert not self.stopping
        assert not (self.config.eval_at_start and not self.evaluated), "before the first evaluation"
        if attempt == 1:
            assert not self.tasks or number == max(self.tasks) + 1, "numbers follow the order of admission"
            self.tasks[number] = task
        elif number in self.without_task:
            assert task not in self.tasks.values(), "another task than it had"
            self.without_task.remove(number)
            self.tasks[number] = task
        else:
            assert number in self.to_restart
            assert self.tasks[number] == task
            self.to_restart.remove(number)
        self.attempts[number] += 1
        assert self.attempts[number] == attempt

    def train(self, action: actions.Train) -> None:
        size, done = self.config.groups_per_step, self.consumed
        assert self.training is None
        assert action.step == self.learner
        assert action.groups == tuple(list(self.tasks)[done : done + size]), "order of admission"
        assert len(action.groups) == size
        assert self.scored.issuperset(action.groups)
        ages = [action.step - self.oldest_token[number] for number in action.groups]
        assert max(ages) <= self.config.max_staleness, "a token is too old"
        drawn_by = [pair for number in action.groups for pair in self.journal[self.tasks[number]].items()]
        assert all(self.line[version] == weights for version, weights in drawn_by), "drawn by weights that were lost"
        if self.config.max_staleness == 0:
            in_flight = [*self.running, *self.taken_up, *self.scoring]
            assert (set(ages), in_flight) == ({0}, []), "not synchronous"
        assert not self.config.take_turns or self.evaluating is None, "not its turn"
        self.consumed += size
        self.training = action.groups

    def load(self, worker: str) -> int:
        return sum(where == worker for where, _ in self.running.values())

    # What can happen.

    def join(self, name: str, version: int, capacity: int) -> None:
        self.forget(name)
        self.engines[name], self.capacity[name] = version, capacity
        self.tell(events.WorkerJoined(worker=name, version=version, capacity=capacity))

    def lose(self, name: str) -> None:
        self.forget(name)
        self.tell(events.WorkerLost(worker=name))
        self.confirm_publication()

    def forget(self, name: str) -> None:
        self.engines.pop(name, None)
        self.syncing.pop(name, None)
        self.unconfirmed.discard(name)
        for key in [key for key, (where, _) in self.running.items() if where == name]:
            del self.running[key]
            self.given_up.append(key)
            self.to_restart.add(key[0])

    def confirm_publication(self, name: str | None = None) -> None:
        if name is not None:
            self.unconfirmed.remove(name)
            self.engines[name] = self.publishing
        if self.publishing is not None and not self.unconfirmed:
            self.published, self.publishing = self.publishing, None
            self.tell(events.WeightsPublished(version=self.published))

    def sync(self, name: str) -> None:
        self.engines[name] = self.syncing.pop(name)
        self.tell(events.WorkerSynced(worker=name, version=self.engines[name]))

    def finish_group(self, key: tuple[int, int]) -> None:
        worker, oldest = self.running.pop(key)
        self.oldest_token[key[0]] = oldest
        versions = {oldest, self.engines[worker]}  # it may have been given newer weights since
        self.journal[self.tasks[key[0]]] = {version: self.line[version] for version in versions}
        self.tell(events.GroupFinished(group=key[0], attempt=key[1], min_version=self.oldest_token[key[0]]))

    def take_up(self, key: tuple[int, int]) -> None:
        self.taken_up.remove(key)
        self.oldest_token[key[0]] = min(self.journal[self.tasks[key[0]]])
        self.tell(events.GroupFinished(group=key[0], attempt=key[1], min_version=self.oldest_token[key[0]]))

    def score(self, key: tuple[int, int]) -> None:
        self.scoring.remove(key)
        self.scored.add(key[0])
        self.tell(events.VerdictsArrived(group=key[0], attempt=key[1]))

    def reject(self, key: tuple[int, int]) -> None:
        self.scoring.remove(key)
        self.may_reject.remove(key)
        self.refills[key[0]] += 1
        self.failures[key[0]] = 0
        self.without_task.add(key[0])
        self.rejected.append(self.tasks[key[0]])
        self.tell(events.GroupRejected(group=key[0], attempt=key[1]))

    def fail(self, key: tuple[int, int]) -> None:
        self.running.pop(key, None)
        self.scoring.discard(key)
        self.failures[key[0]] += 1
        self.to_restart.add(key[0])
        self.tell(events.GroupFailed(group=key[0], attempt=key[1], reason="a test says so"))

    def finish_step(self) -> None:
        self.trained.append([self.tasks[number] for number in self.training])
        self.training = None
        self.learner += 1
        self.made += 1
        self.line.append(self.made)
        self.tell(events.StepTrained(version=self.learner))

    def finish_evaluation(self, works: bool = True) -> None:
        version, self.evaluating = self.evaluating, None
        if works:
            self.evaluated.append(version)
            self.failures["evaluation"] = 0
            self.tell(events.EvaluationFinished(version=version))
        else:
            self.tell(events.EvaluationFailed(version=version, reason="a test says so"))

    def write_checkpoint(self) -> None:
        self.checkpoint, self.writing = self.writing, None
        self.evaluated_at_checkpoint = self.evaluated_at_writing
        self.rejected_at_checkpoint = self.rejected_at_writing
        self.tell(events.CheckpointWritten(version=self.checkpoint.version))

    def stop(self) -> None:
        self.stopping = True
        self.tell(events.StopRequested())

    def outstanding(self) -> list[tuple]:
        """Every answer that may come next: what to call, and with what."""
        answers = [(self.sync, name) for name in sorted(self.syncing)]
        answers += [(self.finish_group, key) for key in sorted(self.running)]
        answers += [(self.take_up, key) for key in sorted(self.taken_up)]
        answers += [(self.score, key) for key in sorted(self.scoring)]
        if self.publishing is not None:
            answers += [(self.confirm_publication, name) for name in sorted(self.unconfirmed) or [None]]
        if self.training is not None:
            answers.append((self.finish_step,))
        if self.evaluating is not None:
            answers.append((self.finish_evaluation,))
        if self.writing is not None:
            answers.append((self.write_checkpoint,))
        return answers

    # What must always hold.

    def check(self) -> None:
        config, scheduler, known = self.config, self.scheduler, self.scheduler.state()
        size = config.groups_per_step
        unpublished = len(self.tasks) - (self.published - self.first) * size
        assert unpublished <= (config.max_staleness + 1) * size, "admitted and not yet published"
        tasks = [task for step in self.trained for task in step]
        assert len(tasks) == len(set(tasks)), "a task was trained twice"
        present = {task for number, task in self.tasks.items() if number not in self.without_task}
        owed = {self.tasks[number] for number in self.tasks if number >= known.trained_groups} & present
        assert owed <= set(known.untrained_tasks), "a group was lost"
        assert not owed & set(tasks)
        everything = [*tasks, *self.rejected, *known.untrained_tasks]
        assert sorted(everything) == list(range(known.next_task)), "a task was lost"
        assert known.trained_groups == self.learner * size, "numbers continue over a resume"
        if scheduler.done:
            return
        busy = self.running or self.taken_up or self.scoring or self.training or self.syncing or self.unconfirmed
        busy = busy or self.evaluating is not None or self.writing is not None or self.publishing is not None
        assert busy or not self.engines, "nothing runs, and the run is not done"
        assert scheduler.waiting_on
        if self.stopping:
            return
        gated = config.eval_at_start and not self.evaluated
        total = (config.total_steps - self.first) * size
        may_admit = len(self.tasks) < total and unpublished < (config.max_staleness + 1) * size
        idle = [
            name
            for name, version in self.engines.items()
            if version == self.published and name not in self.syncing and self.load(name) < self.capacity[name]
        ]
        assert gated or not idle or not (may_admit or self.to_restart or self.without_task), (
            "an idle worker, and a group that may start"
        )
        oldest = list(self.tasks)[self.consumed : self.consumed + size]
        ready = len(oldest) == size and self.scored.issuperset(oldest)
        busy = self.training is not None or (config.take_turns and self.evaluating is not None)
        assert busy or not ready, "an idle learner, and a step's groups are scored"

    def run_to_the_end(self) -> None:
        """Let everything that is outstanding happen, oldest first, without further trouble."""
        for _ in range(10_000):
            self.check()
            if self.scheduler.done:
                return
            if outstanding := self.outstanding():
                answer, *key = outstanding[0]
                answer(*key)
            else:
                self.join("last", -1, 2)
        raise AssertionError(f"the run does not end; it waits for {self.scheduler.waiting_on}")
