"""The one writer of a run's journal.

A step counts as trained when the learner has finished it. That each task is trained at most once in the present lineage
is not only checked, it is an index of the database (`trained_once`).

What outlives a crash. Group numbers and weight versions go on from the checkpoint, of version v say, so the numbers
v + 1, v + 2 ... will be given to other weights than those that the crash took. `resume(v)` therefore forgets every draw
with a token of a version above v; by induction over the resumes, what is left was drawn by the present policy's own
ancestors alone. Whether such a draw is recent enough is the scheduler's to say (admission.py, "A resumed run").

On a file system that hosts may share, nobody else can read the file while it is open: SQLite's WAL needs memory that
all who have it open share, and without it, one process alone (sqlite.org/wal.html, section 8).

Commits survive the death of the process. A loss of power may cost the last few of them (WAL with synchronous=NORMAL);
what counts then is the checkpoint, to which `resume` goes back anyway.

A rejected task is done with, like a trained one, as of the checkpoint that no longer owes it. `resume` from an earlier
one forgets the rejection, and the task's draw is taken up and judged as it was.

The file stays bounded: see retention.py.
"""

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self, TextIO

from orchestration import actions, events
from orchestration.actions import Action
from orchestration.errors import JournalError
from orchestration.events import Event
from orchestration.journal.draws import (
    ROLLOUT_COLUMNS,
    VERDICT_COLUMNS,
    Draw,
    array,
    blob,
    rollout_of,
    rollout_row,
    storable,
    verdict_of,
    verdict_row,
)
from orchestration.journal.file_system import is_local
from orchestration.journal.lock import lock
from orchestration.journal.retention import SWEEPS, delete_draws, give_back
from orchestration.journal.schema import INT, SCHEMA, VERSION
from orchestration.scheduler import JOURNAL
from reward.messages import Verdict
from rollout.messages import Rollout

DRAW_COLUMNS = (
    *("task_index", "lineage", "group_id", "attempt", "oldest_version", "newest_version", "task_id", "prompt"),
    "prompt_ids",
)
WAL_PAGES = 4_000  # 16 MB: how much is written beside the file before it goes into the file, which waits for the disk
DONE = "SELECT task_index FROM groups WHERE state = 'trained' UNION ALL SELECT task_index FROM rejections"


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """A draw that an earlier process of the run left behind, of a task that the present policy was not trained on."""

    oldest_version: int
    prompt_ids: tuple[int, ...]
    samples: int


class Journal:
    """Writes raise JournalError: then the run must stop. `add_draw` and `add_verdicts` may be called from any thread.

    `keep_rollouts` is in steps; None keeps all, 0 only what a resume could take up.
    """

    def __init__(self, path: Path, held: TextIO, keep_rollouts: int | None = None) -> None:
        self.path = path
        self.keep_rollouts = keep_rollouts
        self._held = held
        self._lineage = 0
        self._version = 0  # trained
        self._checkpoint = self._next_checkpoint = 0  # versions: on disk, and being written
        self._writing = threading.Lock()
        # Transactions are written out, see `_transaction`, and only one thread is in one.
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            self._prepare()
        except sqlite3.Error as error:
            self.close()
            raise JournalError(
                f"{path} cannot be used as a journal ({error}): is it an SQLite file, on a disk with room?"
            ) from error
        except JournalError:
            self.close()
            raise

    @classmethod
    def open(cls, path: Path, keep_rollouts: int | None = None) -> Self:
        """Make or continue the journal at `path`. Raises JournalError while another process drives the same run."""
        return cls(path, lock(path.with_suffix(".lock")), keep_rollouts)

    def _prepare(self) -> None:
        if not is_local(self.path.parent):  # a process of another host would ruin the index of the WAL by reading
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")  # so there is none but in this process's memory
        found = self._db.execute("PRAGMA user_version").fetchone()[0]
        if found != VERSION and self._db.execute("SELECT 1 FROM sqlite_master").fetchone():
            raise JournalError(
                f"{self.path} has tables of version {found or 1}, this Temper writes version {VERSION}: go on with the"
                " Temper that began the run, or start a new run from its checkpoint's policy"
            )
        self._db.execute("PRAGMA auto_vacuum=INCREMENTAL")  # takes effect before the first table alone
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute("PRAGMA foreign_keys=ON")
        self._db.execute(f"PRAGMA wal_autocheckpoint={WAL_PAGES}")
        self._db.execute(f"PRAGMA user_version={VERSION}")  # first, so that who dies now leaves it empty
        self._db.executescript(SCHEMA)

    def close(self) -> None:
        with self._writing:
            self._db.close()
        self._held.close()  # which also unlocks

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # What happens.

    def resume(self, version: int) -> None:
        """Begin a lineage from the checkpoint of `version` (0: from the start); call it once, before the first event.

        Rows of steps from `version` on, and of groups never trained, are marked rolled_back: their tasks run again,
        from their draws where no newer weights had a part in them.
        """
        with self._transaction():
            self._db.execute(
                "UPDATE groups SET state = 'rolled_back' WHERE state != 'trained' OR trained_step >= ?", (version,)
            )
            self._db.execute("DELETE FROM draws WHERE newest_version > ?", (version,))
            self._db.execute("DELETE FROM rejections WHERE checkpoint IS NULL OR checkpoint > ?", (version,))
            cursor = self._db.execute("INSERT INTO lineages (version, time) VALUES (?, ?)", (version, time.time()))
            self._lineage = cursor.lastrowid
        self._version = self._checkpoint = self._next_checkpoint = version

    def record(self, event: Event) -> None:
        """Write one event down, and what it says about groups. Call it before the scheduler handles the event."""
        with self._transaction():
            self._db.execute(
                "INSERT INTO events (lineage, time, kind, json) VALUES (?, ?, ?, ?)",
                (self._lineage, time.time(), type(event).__name__, json.dumps(asdict(event))),
            )
            match event:
                case events.GroupFinished():
                    self._move(event.group, event.attempt, "running", "scoring")
                case events.VerdictsArrived():
                    self._move(event.group, event.attempt, "scoring", "scored")
                case events.GroupRejected():
                    self._reject(event)
                case events.GroupFailed():
                    self._move(event.group, event.attempt, "running", "queued")
                    self._move(event.group, event.attempt, "scoring", "queued")
                case events.WorkerLost():
                    self._db.execute(
                        "UPDATE groups SET state = 'queued' WHERE lineage = ? AND worker = ? AND state = 'running'",
                        (self._lineage, event.worker),
                    )
                case events.StepTrained():
                    self._train(event.version - 1)
                case events.CheckpointWritten():
                    self._checkpoint = self._next_checkpoint = event.version
        if isinstance(event, events.StepTrained):
            self._version = event.version
            self._sweep()

    def start(self, todo: Sequence[Action]) -> None:
        """Write down what actions mean for groups: that one starts (again), or which ones a step consumes."""
        with self._transaction():
            for action in todo:
                match action:
                    case actions.StartGroup():
                        self._admit(action, action.worker)
                    case actions.TakeUpGroup():
                        self._admit(action, JOURNAL)
                        self._take_up(action)
                    case actions.Train():
                        self._db.executemany(
                            "UPDATE groups SET state = 'training', trained_step = ? WHERE lineage = ? AND group_id = ?",
                            [(action.step, self._lineage, group) for group in action.groups],
                        )
                    case actions.Checkpoint():
                        self._next_checkpoint = action.version
                        self._db.execute(
                            "UPDATE rejections SET checkpoint = ? WHERE checkpoint IS NULL", (action.version,)
                        )

    # What it was about.

    def add_draw(
        self, *, group: int, attempt: int, task_index: int, task_id: str, prompt: str, rollouts: Sequence[Rollout]
    ) -> int:
        """All responses of an attempt, in place of an earlier one's; call it before GroupFinished is recorded.

        Returns the version of the oldest token.
        """
        spans = [span for rollout in rollouts for span in rollout.spans]
        oldest, newest = min(span.version for span in spans), max(span.version for span in spans)
        rows = [rollout_row(task_index, rollout) for rollout in rollouts]
        prompt_ids = blob(rollouts[0].prompt_ids, INT)
        draw = (task_index, self._lineage, group, attempt, oldest, newest, task_id, storable(prompt), prompt_ids)
        with self._transaction():
            self._db.execute("DELETE FROM draws WHERE task_index = ?", (task_index,))
            self._db.execute(_insert("draws", DRAW_COLUMNS), draw)
            self._db.executemany(_insert("rollouts", ROLLOUT_COLUMNS), rows)
            self._db.execute(
                "UPDATE groups SET task_id = ?, oldest_version = ? WHERE lineage = ? AND group_id = ?",
                (task_id, oldest, self._lineage, group),
            )
        return oldest

    def add_verdicts(self, *, group: int, attempt: int, verdicts: Sequence[Verdict], reward_mean: float) -> None:
        """The judgements of an attempt, in the order of its rollouts; those of a replaced attempt are not kept."""
        with self._transaction():
            found = self._db.execute(
                "SELECT task_index FROM groups JOIN draws USING (lineage, group_id, task_index)"
                " WHERE lineage = ? AND group_id = ? AND attempt = ?",
                (self._lineage, group, attempt),
            ).fetchone()
            if found is None:
                return
            rows = [verdict_row(found[0], sample, verdict) for sample, verdict in enumerate(verdicts)]
            self._db.executemany(_insert("verdicts", VERDICT_COLUMNS), rows)
            self._db.execute(
                "UPDATE groups SET reward_mean = ? WHERE lineage = ? AND group_id = ?",
                (reward_mean, self._lineage, group),
            )

    # What it knows.

    def leftovers(self) -> dict[int, Leftover]:
        """Task index -> what can be taken up instead of drawing it again; ask after `resume`."""
        with self._reading():
            rows = self._db.execute(
                "SELECT task_index, oldest_version, prompt_ids,"
                " (SELECT count(*) FROM rollouts WHERE rollouts.task_index = draws.task_index)"
                f" FROM draws WHERE task_index NOT IN ({DONE})"
            ).fetchall()
        return {
            task: Leftover(oldest_version=oldest, prompt_ids=tuple(array(prompt, INT).tolist()), samples=samples)
            for task, oldest, prompt, samples in rows
        }

    def draw(self, task_index: int) -> Draw:
        """What is kept of a task. Raises JournalError where nothing is."""
        with self._reading():
            head = self._db.execute(
                "SELECT group_id, attempt, oldest_version, prompt_ids FROM draws WHERE task_index = ?", (task_index,)
            ).fetchone()
            rollouts, verdicts = (
                self._db.execute(
                    f"SELECT {', '.join(columns)} FROM {table} WHERE task_index = ? ORDER BY sample", (task_index,)
                ).fetchall()
                for table, columns in (("rollouts", ROLLOUT_COLUMNS), ("verdicts", VERDICT_COLUMNS))
            )
        if head is None:
            raise JournalError(f"{self.path} has no draw of task {task_index}: ask for those of `leftovers`")
        group, attempt, oldest, prompt = head
        prompt_ids = tuple(array(prompt, INT).tolist())
        return Draw(
            oldest_version=oldest,
            rollouts=tuple(rollout_of(row, f"{group}.{attempt}", prompt_ids) for row in rollouts),
            verdicts=tuple(map(verdict_of, verdicts)),
        )

    def forget_verdicts(self) -> None:
        """Let everything that is taken up be judged again, say because rewards are made in another way now."""
        with self._transaction():
            self._db.execute(f"DELETE FROM verdicts WHERE task_index NOT IN ({DONE})")

    def trained_tasks(self) -> list[tuple[int, int]]:
        """(step, task index) of everything the present policy was trained on, in order of training."""
        with self._reading():
            return self._db.execute(
                "SELECT trained_step, task_index FROM groups WHERE state = 'trained' ORDER BY trained_step, group_id"
            ).fetchall()

    # How.

    def _reject(self, event: events.GroupRejected) -> None:
        """Its row stays, to take the next task."""
        of = (self._lineage, event.group, event.attempt)
        self._db.execute(
            "INSERT INTO rejections (task_index, lineage, group_id, attempt, trained_version, reward_mean)"
            " SELECT task_index, lineage, group_id, attempts, ?, reward_mean FROM groups"
            " WHERE lineage = ? AND group_id = ? AND attempts = ? AND state = 'scoring'",
            (self._version, *of),
        )
        self._db.execute(
            "UPDATE groups SET state = 'queued', task_id = NULL, oldest_version = NULL, reward_mean = NULL"
            " WHERE lineage = ? AND group_id = ? AND attempts = ? AND state = 'scoring'",
            of,
        )

    def _admit(self, action: actions.StartGroup | actions.TakeUpGroup, worker: str) -> None:
        self._db.execute(
            "INSERT INTO groups (lineage, group_id, task_index, admitted_version, state, attempts, worker)"
            " VALUES (?, ?, ?, ?, 'running', ?, ?)"
            " ON CONFLICT (lineage, group_id) DO UPDATE SET state = 'running', attempts = excluded.attempts,"
            " worker = excluded.worker, admitted_version = excluded.admitted_version, task_index = excluded.task_index",
            (self._lineage, action.group, action.task_index, action.version, action.attempt, worker),
        )

    def _take_up(self, action: actions.TakeUpGroup) -> None:
        """The draw now belongs to this attempt; what was known of it is known of the new group."""
        self._db.execute(
            "UPDATE draws SET lineage = ?, group_id = ?, attempt = ? WHERE task_index = ?",
            (self._lineage, action.group, action.attempt, action.task_index),
        )
        self._db.execute(
            "UPDATE groups SET (task_id, oldest_version) ="
            " (SELECT task_id, oldest_version FROM draws WHERE task_index = ?) WHERE lineage = ? AND group_id = ?",
            (action.task_index, self._lineage, action.group),
        )

    def _move(self, group: int, attempt: int, before: str, after: str) -> None:
        """News of an attempt that was given up finds no row and changes nothing."""
        self._db.execute(
            "UPDATE groups SET state = ? WHERE lineage = ? AND group_id = ? AND attempts = ? AND state = ?",
            (after, self._lineage, group, attempt, before),
        )

    def _train(self, step: int) -> None:
        try:
            trained = self._db.execute(
                "UPDATE groups SET state = 'trained' WHERE lineage = ? AND trained_step = ? AND state = 'training'",
                (self._lineage, step),
            )
        except sqlite3.IntegrityError as error:
            raise JournalError(
                f"step {step} trained a task that this lineage has trained before, which must not happen:"
                f" compare trained_step and task_index in table groups of {self.path}"
            ) from error
        if not trained.rowcount:
            raise JournalError(f"step {step} is said to be trained, but {self.path} knows of no group that it consumed")

    def _sweep(self) -> None:
        if self.keep_rollouts is None or self._version % max(1, self.keep_rollouts // SWEEPS):
            return
        with self._transaction():
            delete_draws(
                self._db,
                until=self._version - self.keep_rollouts,
                checkpoints=(self._checkpoint, self._next_checkpoint),
            )
        with self._reading():
            give_back(self._db)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing, also when the process is killed in between."""
        with self._reading():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self._writing:
            try:
                yield
            except sqlite3.Error as error:
                raise JournalError(
                    f"{self.path} cannot be read or written ({error}): free space on its disk, then resume the run"
                ) from error


def _insert(table: str, columns: Sequence[str]) -> str:
    return f"INSERT OR REPLACE INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
