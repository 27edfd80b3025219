"""Which group may start next, and with which task: the bound on staleness, and what a run still owes.

The bound. Number the groups 0, 1, 2 ... in order of admission, and let `published` be the newest version that every
worker has confirmed. Group g may start as soon as

    g < (published + S + 1) * P          P = groups_per_step, S = max_staleness

that is: at most (S + 1) * P groups are admitted and not yet published. Then no token is more than S versions old when
it is trained. Proof: groups are trained P at a time in order of admission, so g is trained by the step that starts from
version floor(g / P), and floor(g / P) <= published + S by the rule, with `published` as it was when g started. All its
tokens are drawn by `published` or newer weights: a worker gets groups only while it holds at least that version, and
weights that change under a group in flight only grow newer. So floor(g / P) - version of the token <= S. A group that
starts again, with the same task or with another, starts later, when `published` has not fallen, and the argument holds
for it as well. With S = 0, step v trains on tokens of exactly version v.

Dynamic sampling. A group whose responses teach nothing, say because all of them are right, is rejected: its number
takes the next task that is owed, up to `refills` times, and then keeps what it has. So a step has P groups, and never
more than P (refills + 1) tasks are drawn for it: a policy that knows everything does not hold the run up for ever.

A resumed run starts from the checkpoint of some version v, and finds responses that an earlier process drew: `drawn`.
Those with a token of a version above v are not among them: such weights died with that process, and their numbers will
be given to others. All other weights up to v are ancestors of v, so their versions say how old they are. A task that is
owed again gets the next number g as ever, and is trained by step f = first version + floor((g - first group) / P). Its
old responses are taken up iff f - (version of their oldest token) <= S; otherwise it is drawn again. So the bound holds
for both. With P and S unchanged none is drawn again for its age: tasks are owed in the order of their groups' numbers,
so g and f are what they were, and the bound held.

Publishing every k-th version needs k <= S + 1: after S + 1 steps without publication all (S + 1) * P slots are used up.
"""

from collections import deque
from collections.abc import Mapping

from orchestration.actions import SchedulerState
from orchestration.scheduler_config import SchedulerConfig


class Admission:
    """Numbers and tasks, from the state of the checkpoint that the run starts from. Every method takes constant time.

    `drawn` maps a task to the version of its oldest token, for tasks whose responses an earlier process left.
    """

    def __init__(self, config: SchedulerConfig, state: SchedulerState, drawn: Mapping[int, int]) -> None:
        self._config = config
        self._first_version = state.version
        self._first_group = state.trained_groups
        self._again = deque(state.untrained_tasks)
        self._new = state.next_task
        self._drawn = dict(drawn)

    def limit(self, published: int) -> int:
        """Groups below this number may start: the bound, and no more than will be trained."""
        return self.first_group(min(published + self._config.max_staleness + 1, self._config.total_steps))

    def first_group(self, step: int) -> int:
        """The oldest of those that the step from version `step` trains."""
        return self._first_group + (step - self._first_version) * self._config.groups_per_step

    def leftover(self, group: int) -> int | None:
        """The version of the oldest token of what was drawn for the next owed task, if group `group` may take it up."""
        oldest = self._drawn.pop(self._again[0] if self._again else self._new, None)
        if oldest is None:
            return None
        step = self._first_version + (group - self._first_group) // self._config.groups_per_step
        return oldest if step - oldest <= self._config.max_staleness else None

    def next_task(self) -> int:
        """Take the next owed task: those of the checkpoint before any new one."""
        if self._again:
            return self._again.popleft()
        self._new += 1
        return self._new - 1

    @property
    def owed(self) -> tuple[tuple[int, ...], int]:
        """Tasks of the checkpoint that no group has taken yet, oldest first; and the first task never admitted."""
        return tuple(self._again), self._new
