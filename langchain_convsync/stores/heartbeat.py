"""One thread per process that renews every lease in use, and rings what runs for too long."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

from langchain_convsync import _forks, _machine, telemetry
from langchain_convsync._flow import Flow, monotonic, run
from langchain_convsync._platform import Joinable, spawn
from langchain_convsync._wakeup import Wakeup
from langchain_convsync.errors import ConvSyncError, StoreUnavailableError
from langchain_convsync.stores.base import EventStore, Lease

#: Seconds between tries to give a lease back to a store that does not answer: doubled each time.
RELEASE_PAUSE, LONGEST_RELEASE_PAUSE = 1.0, 60.0
#: Seconds after which the heartbeat looks again where there is nothing to renew.
LONGEST_REST = 3600.0


class Watch:
    """A lease being renewed, as a context manager; a cancelled block gives its lease back.

    Attributes:
        lost: True once the lease is gone; the work under it must not be committed.
    """

    def __init__(
        self, store: EventStore, lease: Lease, *, seconds: float, deadline: float | None
    ) -> None:
        now = monotonic()
        self.lost = False
        self._store = store
        self._lease = lease
        self._seconds = seconds
        self._deadline = None if deadline is None else now + deadline
        self._ends = now + seconds
        self._on_lost: list[Callable[[], None]] = []
        self._lock = _forks.lock()
        self.released = False
        self._delay, self._pause = 0.0, RELEASE_PAUSE
        self.next_renewal = now + seconds / 3

    def __enter__(self) -> Self:
        _heartbeat.add(self)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _heartbeat.remove(self)
        self._on_lost.clear()  # which hold what was done, and are held by it
        if exc is not None and not isinstance(exc, Exception):
            self.give_back()  # cancelled: no caller is left to wait for I/O

    def give_back(self, *, delay: float = 0.0) -> None:
        """Let the heartbeat's thread release the lease, as soon as its store can.

        A lease that ends by itself is a start without an end, and so many of them end the event.
        """
        if not self.lost:
            self.released, self.next_renewal, self._delay = True, 0.0, delay
            _heartbeat.add(self)

    def on_lost(self, callback: Callable[[], None]) -> None:
        """Call back once the lease is gone, from the heartbeat's thread; at once if it is."""
        with self._lock:
            self._on_lost.append(callback)
            already = self.lost
        if already:
            callback()

    def renew(self) -> Flow[None]:
        """Renew the lease, unless its deadline has passed; notice when it is gone."""
        if self.released:
            yield from self._release()
            return
        now = monotonic()
        self.next_renewal = now + self._seconds / 3
        expired = now >= self._ends
        if self._deadline is not None and now >= self._deadline:
            if expired:
                self._lose()
            return
        try:
            renewed = yield from self._store.renew(self._lease, seconds=self._seconds)
        except Exception as error:  # noqa: BLE001 - the one thread serves every lease and goes on
            _machine.noticed(error)
            telemetry.count("heartbeat_failures")
            if expired:
                self._lose()
            return
        if renewed is None:
            self._lose()
        else:
            self._ends = now + self._seconds

    def _release(self) -> Flow[None]:
        try:
            yield from self._store.release(self._lease, delay=self._delay)
        except StoreUnavailableError as error:
            if self._pause == RELEASE_PAUSE:
                telemetry.count("release_failures")
            _machine.noticed(error)
            # Behind its end, too: until a worker acquires it anew, it can be given back.
            self.next_renewal = monotonic() + self._pause
            self._pause = min(LONGEST_RELEASE_PAUSE, self._pause * 2)
            return
        except ConvSyncError:
            telemetry.count("release_failures")
        _heartbeat.remove(self)

    def _lose(self) -> None:
        with self._lock:
            if self.lost:
                return
            self.lost = True
            callbacks = tuple(self._on_lost)
        telemetry.count("leases_lost")
        for callback in callbacks:
            callback()


class Alarm:
    """Calls back from the heartbeat's thread, once, unless its block ends before.

    Args:
        seconds: After how long, from now.
        callback: What to call.
    """

    lost = False

    def __init__(self, seconds: float, callback: Callable[[], None]) -> None:
        self.next_renewal = monotonic() + seconds
        self._callback = callback

    def __enter__(self) -> Self:
        _heartbeat.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        _heartbeat.remove(self)

    def renew(self) -> Flow[None]:
        """The time has come."""
        _heartbeat.remove(self)
        self._callback()
        yield from ()


class _Heartbeat:
    def __init__(self) -> None:
        self._lock = _forks.lock()
        self._wakeup = Wakeup()
        self._watches: dict[Watch | Alarm, None] = {}  # in order
        self._wakes = 0.0
        self._thread: Joinable | None = None

    def add(self, watch: Watch | Alarm) -> None:
        with self._lock:
            if self._thread is None:  # where the machine has none left, the next watch tries again
                self._thread = spawn(lambda: run(self._beat()), "convsync-heartbeat")
            self._watches[watch] = None
            if watch.next_renewal < self._wakes:  # else it will be looked at early enough
                self._wakeup.notify()

    def remove(self, watch: Watch | Alarm) -> None:
        with self._lock:
            self._watches.pop(watch, None)

    def _beat(self) -> Flow[None]:
        while True:
            for watch in self._due():
                if not watch.lost:
                    yield from watch.renew()
            yield from self._wakeup.wait(max(0.0, self._wakes - monotonic()))

    def _due(self) -> list[Watch | Alarm]:
        """What to look after now, and when to look again."""
        with self._lock:
            live, now = [watch for watch in self._watches if not watch.lost], monotonic()
            self._wakes = min((w.next_renewal for w in live), default=now + LONGEST_REST)
            return [watch for watch in live if watch.next_renewal <= now]


_heartbeat = _Heartbeat()
_forks.in_child(_heartbeat, _Heartbeat.__init__)  # the parent renews its own leases
