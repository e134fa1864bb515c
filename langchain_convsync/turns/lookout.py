"""Hearing of work that other processes leave: one thread of a process, for all that waits in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import repeat

from langchain_convsync import _forks
from langchain_convsync._flow import Flow, Polling, monotonic, run
from langchain_convsync._platform import Joinable, spawn
from langchain_convsync._wakeup import Wakeup
from langchain_convsync.errors import ClosedError
from langchain_convsync.stores.base import EventStore, Hint, Listener, QueueName

#: Seconds between looks at what is due, while hints arrive: for those that are lost.
PERIOD = 2.0
#: Seconds between two looks at least, and behind several that found nothing.
APART, FARTHEST = 0.005, 0.02
#: Seconds before a store that did not answer is asked again.
STORE_PAUSE = 1.0
#: Seconds that a worker waits at most, in case that nobody wakes it.
LONGEST = 60.0
#: Seconds that the thread stays for calls, after the last one.
LINGERS = 5.0


class Lookout:
    """Wakes workers when there may be work, and calls when their conversation may be free.

    A thread begins with the first of them; where the machine has none left, they look themselves.

    Args:
        store: Where the work is.
    """

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._lock = _forks.lock()
        self._begin_anew()
        _forks.in_child(self, Lookout._begin_anew)

    def _begin_anew(self) -> None:
        """In a forked child: workers and calls are the parent's."""
        self._queues: Mapping[QueueName, Wakeup] = {}
        self._calls: dict[str, list[Wakeup]] = {}
        self._is_limited = False
        self._also: Callable[[], Flow[None]] | None = None
        self._thread: Joinable | None = None
        self._ending: Joinable | None = None
        self._listener: Listener | None = None
        self._looks_at = self._looked_at = self._needed_at = 0.0
        self._vain = 0

    def begin(
        self,
        queues: Mapping[QueueName, Wakeup],
        *,
        is_limited: bool = False,
        also: Callable[[], Flow[None]] | None = None,
    ) -> None:
        """Wake the workers of some queues, until the end.

        Args:
            queues: What they wait by.
            is_limited: Whether a turn that ends elsewhere may let another one of its account begin.
            also: What is done now and then besides.
        """
        with self._lock:
            self._queues, self._is_limited, self._also = queues, is_limited, also
            self._looks_at = 0.0
            self._ensure()

    def end(self) -> None:
        """Wake no worker any more."""
        with self._lock:
            self._queues, self._also = {}, None
            listener, self._listener = self._listener, None
            self._ending, self._thread = self._thread, None
        if listener is not None:
            listener.end()

    def join(self, seconds: float) -> None:
        """Wait until the thread has ended that :meth:`end` told to, for so many seconds at most."""
        thread, self._ending = self._ending, None
        if thread is not None:
            thread.join(seconds)

    @property
    def longest_wait(self) -> float:
        """Seconds after which a worker looks for work itself."""
        return LONGEST if self._listener is not None else Polling.LAST

    def wait(self, conversation_key: str, seconds: float) -> Flow[None]:
        """Let seconds pass, or less if a conversation's inbox may be free."""
        wakeup = Wakeup()
        with self._lock:
            self._calls.setdefault(conversation_key, []).append(wakeup)
            self._needed_at = monotonic()
            self._ensure()
        try:
            yield from wakeup.wait(seconds)
        finally:
            with self._lock:
                waiting = self._calls.get(conversation_key, [])
                if wakeup in waiting:
                    waiting.remove(wakeup)
                if not waiting:
                    self._calls.pop(conversation_key, None)

    def notify(self, conversation_key: str) -> None:
        """A conversation's inbox may be free: its calls need not wait longer."""
        with self._lock:
            for wakeup in self._calls.get(conversation_key, ()):
                wakeup.notify()

    def _ensure(self) -> None:
        """Begin to listen, unless a thread does."""
        if self._listener is not None:
            return
        listener = self._listener = self._store.listen()
        try:
            self._thread = spawn(lambda: run(self._listen(listener)), "convsync-lookout")
        except RuntimeError:  # the machine has no thread left
            self._listener = None

    def _listen(self, listener: Listener) -> Flow[None]:
        try:
            while self._is_needed(listener):
                hints = yield from listener.wait(max(0.0, self._looks_at - monotonic()))
                for hint in hints or ():
                    self._heed(hint)
                if monotonic() >= self._looks_at and self._listener is listener:
                    yield from self._look(listener)
        except ClosedError:
            pass
        finally:
            with self._lock:
                if self._listener is listener:
                    self._listener = None
            listener.close()

    def _is_needed(self, listener: Listener) -> bool:
        with self._lock:
            if self._listener is not listener:
                return False
            needed = self._queues or self._calls or monotonic() < self._needed_at + LINGERS
            if not needed:
                self._listener = None
            return bool(needed)

    def _heed(self, hint: Hint) -> None:
        if hint.queue is None or 0.0 < hint.seconds < PERIOD:
            apart = min(FARTHEST, APART * (1 + self._vain))
            at = max(self._looked_at + apart, monotonic() + hint.seconds)
            self._looks_at = min(self._looks_at, at)
        ends = hint.seconds > 0.0
        if hint.queue is not None and (not ends or (self._is_limited and hint.queue == "inbox")):
            self._notify_workers(hint.queue, 1)
        if hint.queue == "inbox":
            self.notify(hint.conversation_key)

    def _notify_workers(self, queue: QueueName, count: int) -> None:
        if (wakeup := self._queues.get(queue)) is not None:
            for _ in repeat(None, count):
                wakeup.notify()

    def _look(self, listener: Listener) -> Flow[None]:
        """Look what is due; where that fails, workers find out why."""
        self._looked_at = monotonic()
        try:
            upcoming = yield from self._store.upcoming(tuple(self._calls))
            if self._also is not None:
                yield from self._also()
        except ClosedError:
            raise
        except Exception:  # noqa: BLE001 - whatever it is, they tell it
            self._looks_at = self._looked_at + STORE_PAUSE
            for queue in self._queues:
                self._notify_workers(queue, 1)
            return
        period = PERIOD if listener.is_sure else Polling.LAST
        next_in = period if upcoming.next_in is None else max(APART, upcoming.next_in)
        self._looks_at = self._looked_at + min(period, next_in)
        self._vain = 0 if upcoming.due or upcoming.free else self._vain + 1
        for queue, count in upcoming.due.items():
            self._notify_workers(queue, count)
        for conversation_key in upcoming.free:
            self.notify(conversation_key)
