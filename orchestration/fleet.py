"""The rollout workers as the scheduler sees them: who is there, with which weights, and how busy.

A worker is *open* when it holds the published version, is not being synchronised, and has room for one more group. Open
workers stand on shelves by load, so finding the least loaded one takes the same time for 4 workers and for 4 096.
"""

from collections import OrderedDict, defaultdict
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Worker:
    version: int
    capacity: int  # groups at once
    synced: bool  # holds the published version; False while it is being brought there
    running: set[int] = field(default_factory=set)  # groups


class Fleet:
    """Invariant: a worker stands on the shelf of its load iff it is open, and no shelf below `_lowest` has a worker."""

    def __init__(self, published: int) -> None:
        self._published = published
        self._workers: dict[str, _Worker] = {}
        # An OrderedDict gives its first key in O(1); a dict scans over the keys that were deleted before it.
        self._shelves: defaultdict[int, OrderedDict[str, None]] = defaultdict(OrderedDict)
        self._open = 0
        self._lowest = 0

    def __contains__(self, worker: str) -> bool:
        return worker in self._workers

    def __len__(self) -> int:
        return len(self._workers)

    @property
    def synced(self) -> tuple[str, ...]:
        """Workers that hold the published version."""
        return tuple(name for name, worker in self._workers.items() if worker.synced)

    @property
    def unsynced(self) -> tuple[str, ...]:
        """Workers that are being brought to the published version."""
        return tuple(name for name, worker in self._workers.items() if not worker.synced)

    def version(self, name: str) -> int:
        """What this worker has last confirmed."""
        return self._workers[name].version

    def join(self, name: str, version: int, capacity: int) -> None:
        """Add a worker. It stays closed until it holds the published version."""
        worker = _Worker(version=version, capacity=capacity, synced=version == self._published)
        self._workers[name] = worker
        self._shelve(name, worker)

    def lose(self, name: str) -> list[int]:
        """Remove a worker; returns the groups that were running there, oldest first."""
        worker = self._workers[name]
        self._unshelve(name, worker)
        del self._workers[name]
        return sorted(worker.running)

    def confirm(self, name: str, version: int) -> None:
        """A worker that was being synchronised confirms what it now holds; it may be behind already."""
        worker = self._workers[name]
        self._unshelve(name, worker)
        worker.version = version
        worker.synced = version == self._published
        self._shelve(name, worker)

    def publish(self, version: int, confirmed: set[str]) -> list[str]:
        """`version` is the published one from now on; returns the open workers that are left behind by it."""
        behind = []
        self._published = version
        for name, worker in self._workers.items():
            if name in confirmed:
                worker.version = version
            synced = worker.version == version
            if synced != worker.synced:
                self._unshelve(name, worker)
                worker.synced = synced
                self._shelve(name, worker)
                if not synced:
                    behind.append(name)
        return behind

    def place(self, group: int) -> str | None:
        """Give a group to the least loaded open worker; among equals to the one that has waited longest."""
        if not self._open:
            return None
        while not self._shelves[self._lowest]:
            self._lowest += 1
        name = next(iter(self._shelves[self._lowest]))
        worker = self._workers[name]
        self._unshelve(name, worker)
        worker.running.add(group)
        self._shelve(name, worker)
        return name

    def release(self, name: str, group: int) -> None:
        """A group has left its worker."""
        worker = self._workers[name]
        self._unshelve(name, worker)
        worker.running.remove(group)
        self._shelve(name, worker)

    def _is_open(self, worker: _Worker) -> bool:
        return worker.synced and len(worker.running) < worker.capacity

    def _shelve(self, name: str, worker: _Worker) -> None:
        if self._is_open(worker):
            load = len(worker.running)
            self._shelves[load][name] = None
            self._open += 1
            self._lowest = min(self._lowest, load)

    def _unshelve(self, name: str, worker: _Worker) -> None:
        if self._is_open(worker):
            del self._shelves[len(worker.running)][name]
            self._open -= 1
