"""The groups that are admitted and not yet trained: at which stage each is, and how far the scored ones reach.

    QUEUED --start--> RUNNING --generated--> SCORING --scored--> SCORED --take--> (trained, forgotten)
       ^                 |                      |
       +------ again ----+----------------------+        its worker was lost, or the attempt failed
       +------ refill --------------------------+        it was rejected, and takes another task

Groups are numbered in order of admission. Every method takes constant time on average, except `oldest` (linear), and
`again` and `refill` with the `start` after them, which keep a heap of the few groups that start once more.
"""

import heapq
from dataclasses import dataclass
from enum import StrEnum

from orchestration.wait import Wait, WaitFor


class Stage(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SCORING = "scoring"
    SCORED = "scored"


@dataclass(slots=True)
class Group:
    task_index: int | None  # None: rejected, and not started again yet
    stage: Stage = Stage.QUEUED
    attempt: int = 0  # over all its tasks
    failures: int = 0  # of the present task
    refills: int = 0
    worker: str = ""
    start_version: int = 0  # the published one when the present attempt started
    min_version: int = 0  # the oldest that drew one of its tokens


class GroupBook:
    """Invariant: groups in [first untrained, `scored_upto`) are SCORED, and the group `scored_upto` is not."""

    def __init__(self, first: int) -> None:
        self.next = first  # the number of the next group admitted
        self.scored_upto = first
        self._groups: dict[int, Group] = {}
        self._again: list[int] = []  # heap of QUEUED groups
        self._count = dict.fromkeys(Stage, 0)

    def __getitem__(self, number: int) -> Group:
        return self._groups[number]

    def count(self, stage: Stage) -> int:
        return self._count[stage]

    def oldest(self, stage: Stage) -> tuple[int, Group]:
        """The oldest group at a stage that has one."""
        number = min(number for number, group in self._groups.items() if group.stage is stage)
        return number, self._groups[number]

    def waits(self) -> list[Wait]:
        """For the groups of each stage that somebody works at."""
        waits = []
        for kind, stage, verb in (
            (WaitFor.GENERATION, Stage.RUNNING, "generated"),
            (WaitFor.VERDICTS, Stage.SCORING, "scored"),
        ):
            if count := self._count[stage]:
                number, group = self.oldest(stage)
                what = (
                    f"{count} groups to be {verb}, the oldest is group {number}"
                    f" (task {group.task_index}, attempt {group.attempt}, from worker {group.worker})"
                )
                waits.append(Wait(kind=kind, what=what))
        return waits

    def find(self, number: int, attempt: int) -> Group | None:
        """The group if `attempt` is the one that counts; None if it was given up, or the group is trained."""
        group = self._groups.get(number)
        return group if group is not None and group.attempt == attempt and group.stage is not Stage.QUEUED else None

    @property
    def next_to_start(self) -> int:
        """The oldest group that waits to be started once more, or else a new one."""
        return self._again[0] if self._again else self.next

    def wants_task(self, number: int) -> bool:
        """True for a new group, and one that was rejected."""
        return number == self.next or self._groups[number].task_index is None

    def give(self, number: int, task_index: int) -> None:
        """Give a group that wants one a task; a new group is thereby admitted."""
        if number == self.next:
            self._groups[number] = Group(task_index=task_index)
            self._count[Stage.QUEUED] += 1
            self.next += 1
        else:
            self._groups[number].task_index = task_index

    def start(self, number: int, worker: str, version: int) -> Group:
        group = self._groups[number]
        if self._again and self._again[0] == number:
            heapq.heappop(self._again)
        group.attempt += 1
        group.worker = worker
        group.start_version = version
        self._move(group, Stage.RUNNING)
        return group

    def generated(self, number: int, min_version: int) -> None:
        group = self._groups[number]
        group.min_version = min_version
        self._move(group, Stage.SCORING)

    def scored(self, number: int) -> None:
        self._move(self._groups[number], Stage.SCORED)
        while (oldest := self._groups.get(self.scored_upto)) is not None and oldest.stage is Stage.SCORED:
            self.scored_upto += 1

    def again(self, number: int) -> None:
        """Give the present attempt up; the group waits for the next."""
        self._move(self._groups[number], Stage.QUEUED)
        heapq.heappush(self._again, number)

    def refill(self, number: int) -> None:
        """Give the present task up as well."""
        group = self._groups[number]
        group.task_index, group.failures = None, 0
        group.refills += 1
        self.again(number)

    def forget(self, numbers: range) -> None:
        """These groups are trained."""
        for number in numbers:
            del self._groups[number]
        self._count[Stage.SCORED] -= len(numbers)

    def _move(self, group: Group, stage: Stage) -> None:
        self._count[group.stage] -= 1
        self._count[stage] += 1
        group.stage = stage
