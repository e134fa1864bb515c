"""What happened, in order, for everybody who looks at it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias

#: One thing that happened, JSON: ``n`` counts them, ``at`` is Unix time, ``kind`` tells what.
Fact: TypeAlias = dict[str, Any]

#: As many are kept: a page that is opened late, or again, begins with them.
KEPT = 4000


class Timeline:
    """Facts from all threads and processes; the oldest are forgotten."""

    def __init__(self) -> None:
        self._facts: deque[Fact] = deque(maxlen=KEPT)
        self._count = 0
        self._lock = threading.Condition(threading.Lock())
        self._listeners: list[Callable[[Fact], None]] = []

    def add(self, kind: str, **facts: Any) -> Fact:
        """Something happened; listeners are told on this thread, one fact after the other."""
        with self._lock:
            self._count += 1
            fact = {"n": self._count, "at": time.time(), "kind": kind, **facts}
            self._facts.append(fact)
            for listener in self._listeners:
                listener(fact)
            self._lock.notify_all()
        return fact

    def wait(self, is_so: Callable[[list[Fact]], bool], seconds: float, *, since: int = 0) -> bool:
        """Wait until what happened after the fact of this number is so; False if that is late."""

        def looked() -> bool:
            return is_so([fact for fact in self._facts if fact["n"] > since])

        with self._lock:
            return self._lock.wait_for(looked, seconds)

    @property
    def last(self) -> int:
        """The number of the last fact; 0 before the first."""
        with self._lock:
            return self._count

    def since(self, number: int = 0) -> list[Fact]:
        """What happened after the fact of this number, as far as it is kept."""
        with self._lock:
            return [fact for fact in self._facts if fact["n"] > number]

    def listen(self, listener: Callable[[Fact], None], *, since: int | None = None) -> None:
        """Be told of every fact from now on, or from that number on; it must not block."""
        with self._lock:
            for fact in self._facts if since is not None else ():
                if fact["n"] > (since or 0):
                    listener(fact)
            self._listeners.append(listener)

    def unlisten(self, listener: Callable[[Fact], None]) -> None:
        """Be told no more."""
        with self._lock:
            self._listeners.remove(listener)
