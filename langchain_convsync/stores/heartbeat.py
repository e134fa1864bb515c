"""One thread per process that renews every lease in use."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

from langchain_convsync import _forks, telemetry
from langchain_convsync._flow import Flow, monotonic, run
from langchain_convsync._platform import Joinable, spawn
from langchain_convsync._wakeup import Wakeup
from langchain_convsync.errors import ConvSyncError
from langchain_convsync.stores.base import EventStore, Lease

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
        if exc is not None and not isinstance(exc, Exception):
            # Cancelled: no caller is left to wait for I/O, so the heartbeat's thread gives it back.
            self.released, self.next_renewal = True, 0.0
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
        except Exception:  # noqa: BLE001 - the one thread serves every lease and must go on
            telemetry.count("heartbeat_failures")
            if expired:
                self._lose()
            return
        if renewed is None:
            self._lose()
        else:
            self._ends = now + self._seconds

    def _release(self) -> Flow[None]:
        _heartbeat.remove(self)
        try:
            yield from self._store.release(self._lease)
        except ConvSyncError:
            telemetry.count("release_failures")  # the lease ends by itself

    def _lose(self) -> None:
        with self._lock:
            if self.lost:
                return
            self.lost = True
            callbacks = tuple(self._on_lost)
        telemetry.count("leases_lost")
        for callback in callbacks:
            callback()


class _Heartbeat:
    def __init__(self) -> None:
        self._lock = _forks.lock()
        self._wakeup = Wakeup()
        self._watches: dict[Watch, None] = {}  # in order
        self._wakes = 0.0
        self._thread: Joinable | None = None

    def add(self, watch: Watch) -> None:
        with self._lock:
            self._watches[watch] = None
            if self._thread is None:
                self._thread = spawn(lambda: run(self._beat()), "convsync-heartbeat")
            if watch.next_renewal < self._wakes:  # else it will be looked at early enough
                self._wakeup.notify()

    def remove(self, watch: Watch) -> None:
        with self._lock:
            self._watches.pop(watch, None)

    def _beat(self) -> Flow[None]:
        while True:
            for watch in self._due():
                if not watch.lost:
                    yield from watch.renew()
            yield from self._wakeup.wait(max(0.0, self._wakes - monotonic()))

    def _due(self) -> list[Watch]:
        """The watches to renew now, and when to look again."""
        with self._lock:
            live, now = [watch for watch in self._watches if not watch.lost], monotonic()
            self._wakes = min((w.next_renewal for w in live), default=now + LONGEST_REST)
            return [watch for watch in live if watch.next_renewal <= now]


_heartbeat = _Heartbeat()
_forks.in_child(_heartbeat, _Heartbeat.__init__)  # the parent renews its own leases
