"""The journal: what happened to every group, written down before it is acted upon. One SQLite file in the run folder.

    event  --record--> `events`   everything, in order
    action --start---> `groups`   one row per admitted group: its task, its attempts, the step that trained it
    resume(v) -------> `lineages` one row per start of the run; groups of steps that the checkpoint does not hold are
                                  marked rolled_back, and so is what was in flight

A step counts as trained when the learner has finished it. That each task is trained at most once in the present lineage
is not only checked, it is an index of the database (`trained_once`).

Commits survive the death of the process. A loss of power may cost the last few of them (WAL with synchronous=NORMAL);
what counts then is the checkpoint, to which `resume` goes back anyway. Any SQLite tool reads the file, also while the
run goes on:

    sqlite3 journal.sqlite "SELECT trained_step, task_index FROM groups WHERE state = 'trained' ORDER BY group_id"
"""

import fcntl
import json
import os
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Self, TextIO

from orchestration import actions, events
from orchestration.actions import Action
from orchestration.errors import JournalError
from orchestration.events import Event

SCHEMA = """
CREATE TABLE IF NOT EXISTS lineages (
    lineage INTEGER PRIMARY KEY,  -- 1 for the first start of the run, one more for every resume
    version INTEGER NOT NULL,     -- the checkpoint it started from; 0 is the untrained policy
    time REAL NOT NULL            -- seconds since 1970
);
CREATE TABLE IF NOT EXISTS events (
    seq INTEGER PRIMARY KEY,
    lineage INTEGER NOT NULL,
    time REAL NOT NULL,           -- seconds since 1970
    kind TEXT NOT NULL,           -- the class in orchestration/events.py
    json TEXT NOT NULL            -- its fields
);
CREATE TABLE IF NOT EXISTS groups (
    lineage INTEGER NOT NULL,
    group_id INTEGER NOT NULL,    -- order of admission; after a resume numbers continue from the checkpoint
    task_index INTEGER NOT NULL,
    task_id TEXT,                 -- NULL until described
    admitted_version INTEGER NOT NULL,
    state TEXT NOT NULL,          -- running, scoring, scored, queued, training, trained, rolled_back
    attempts INTEGER NOT NULL,
    worker TEXT NOT NULL,         -- of the last attempt
    trained_step INTEGER,         -- the step that consumed it, which led from version trained_step to trained_step + 1
    reward_mean REAL,             -- NULL until described
    PRIMARY KEY (lineage, group_id)
) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS trained_once ON groups (task_index) WHERE state = 'trained';
CREATE INDEX IF NOT EXISTS by_step ON groups (lineage, trained_step);
CREATE INDEX IF NOT EXISTS by_worker ON groups (lineage, worker) WHERE state = 'running';
"""


class Journal:
    """The only writer of a run's journal. `start` and `record` may raise JournalError: then the run must stop."""

    def __init__(self, path: Path, lock: TextIO) -> None:
        self.path = path
        self._lock = lock
        self._lineage = 0
        self._db = sqlite3.connect(path, isolation_level=None)  # transactions are written out, see `_transaction`
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(SCHEMA)
        except sqlite3.Error as error:
            self.close()
            raise JournalError(
                f"{path} cannot be used as a journal ({error}): is it an SQLite file, on a disk with room?"
            ) from error

    @classmethod
    def open(cls, path: Path) -> Self:
        """Make or continue the journal at `path`. Raises JournalError while another process drives the same run."""
        return cls(path, _lock(path.with_suffix(".lock")))

    def close(self) -> None:
        self._db.close()
        self._lock.close()  # which also unlocks

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def resume(self, version: int) -> None:
        """Begin a lineage from the checkpoint of `version` (0: from the start); call it once, before the first event.

        Rows of steps from `version` on, and of groups never trained, are marked rolled_back: their tasks run again.
        """
        with self._transaction():
            self._db.execute(
                "UPDATE groups SET state = 'rolled_back' WHERE state != 'trained' OR trained_step >= ?", (version,)
            )
            cursor = self._db.execute("INSERT INTO lineages (version, time) VALUES (?, ?)", (version, time.time()))
            self._lineage = cursor.lastrowid

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

    def start(self, action: Action) -> None:
        """Write down what an action means for groups: that one starts (again), or which ones a step consumes."""
        match action:
            case actions.StartGroup():
                with self._transaction():
                    self._db.execute(
                        "INSERT INTO groups (lineage, group_id, task_index, admitted_version, state, attempts, worker)"
                        " VALUES (?, ?, ?, ?, 'running', ?, ?)"
                        " ON CONFLICT (lineage, group_id) DO UPDATE"
                        " SET state = 'running', attempts = excluded.attempts, worker = excluded.worker",
                        (self._lineage, action.group, action.task_index, action.version, action.attempt, action.worker),
                    )
            case actions.Train():
                with self._transaction():
                    self._db.executemany(
                        "UPDATE groups SET state = 'training', trained_step = ? WHERE lineage = ? AND group_id = ?",
                        [(action.step, self._lineage, group) for group in action.groups],
                    )

    def describe(self, group: int, *, task_id: str | None = None, reward_mean: float | None = None) -> None:
        """Add what only the loop knows of a group; None leaves a column as it is."""
        with self._transaction():
            self._db.execute(
                "UPDATE groups SET task_id = coalesce(?, task_id), reward_mean = coalesce(?, reward_mean)"
                " WHERE lineage = ? AND group_id = ?",
                (task_id, reward_mean, self._lineage, group),
            )

    def trained_tasks(self) -> list[tuple[int, int]]:
        """(step, task index) of everything the present policy was trained on, in order of training."""
        return self._db.execute(
            "SELECT trained_step, task_index FROM groups WHERE state = 'trained' ORDER BY trained_step, group_id"
        ).fetchall()

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

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing, also when the process is killed in between."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise JournalError(
                f"{self.path} cannot be written ({error}): free space on its disk, then resume the run"
            ) from error


def _lock(path: Path) -> TextIO:
    """Hold `path` for the life of the returned file; the system lets go of it however the process ends."""
    try:
        lock = path.open("a+")
    except OSError as error:
        raise JournalError(f"the lock {path} of the run folder cannot be opened ({error})") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.seek(0)
        holder = lock.read().strip() or "an unknown process"
        lock.close()
        raise JournalError(
            f"the run folder {path.parent} is already driven by {holder}: wait for it, stop it, or name another folder"
        ) from error
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()}")
    lock.flush()
    return lock
