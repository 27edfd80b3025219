"""A bounded memory for values of very different size: the ones longest out of use are forgotten first."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class ByWeight(Generic[Value]):
    """Holds values of at most `bytes_` in all, as `weigh` counts them. Safe to share between threads."""

    def __init__(self, bytes_: int, weigh: Callable[[Value], int]) -> None:
        self._room = bytes_
        self._weigh = weigh
        self._held = 0
        self._values: OrderedDict[Hashable, Value] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Value | None:
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: Hashable, value: Value) -> None:
        """The first value of a key stays: equal keys have equal values here."""
        with self._lock:
            if key in self._values:
                return
            self._values[key] = value
            self._held += self._weigh(value)
            while self._held > self._room:
                self._held -= self._weigh(self._values.popitem(last=False)[1])
