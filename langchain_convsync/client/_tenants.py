"""Tenants that were just looked up, and the look-ups that are under way."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeAlias

from langchain_convsync import _forks
from langchain_convsync._flow import Io, Wait, monotonic
from langchain_convsync.models import TenantInfo

#: The bot and the customer's identity: one customer may talk to several tenants.
Key: TypeAlias = tuple[str, str]

#: Seconds that a look-up stays valid, and how many are kept, as the API document recommends.
LIFETIME, SIZE = 3600.0, 1_000


class TenantCache:
    """Remembers tenants for a while; the least recently used one goes first.

    Args:
        clock: Seconds that only ever grow.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._lock = _forks.lock()
        self._entries: OrderedDict[Key, tuple[float, TenantInfo]] = OrderedDict()

    def get(self, key: Key) -> TenantInfo | None:
        """The tenant, unless it is unknown or too old."""
        with self._lock:
            until, tenant = self._entries.get(key, (0.0, None))
            if tenant is None or self._clock() >= until:
                self._entries.pop(key, None)
                return None
            self._entries.move_to_end(key)
            return tenant

    def put(self, key: Key, tenant: TenantInfo) -> None:
        """Remember a tenant."""
        with self._lock:
            self._entries[key] = (self._clock() + LIFETIME, tenant)
            self._entries.move_to_end(key)
            while len(self._entries) > SIZE:
                self._entries.popitem(last=False)

    def forget(self, key: Key) -> None:
        """Forget a tenant."""
        with self._lock:
            self._entries.pop(key, None)

    def forget_session(self, session_id: str) -> None:
        """Forget what was found with a session that is gone."""
        with self._lock:
            gone = [key for key, (_, at) in self._entries.items() if at.session_id == session_id]
            for key in gone:
                del self._entries[key]


@dataclass(frozen=True)
class Flight:
    """A look-up under way.

    Attributes:
        leads: Whether the holder is the one to ask; the others wait.
    """

    leads: bool
    _landed: Future[TenantInfo | None]
    _end: Callable[[], None]

    def land(self, tenant: TenantInfo | None) -> None:
        """Tell the waiting callers; None lets them ask for themselves."""
        self._end()
        self._landed.set_result(tenant)

    def landing(self, seconds: float) -> Io[TenantInfo | None]:
        """Wait for the leader, for at most so many seconds; None if it found nothing."""
        return Wait(seconds, self._landed.done, self._block, self._wait)

    def _block(self, seconds: float) -> TenantInfo | None:
        try:
            return self._landed.result(seconds)
        except TimeoutError:
            return None

    async def _wait(self, seconds: float) -> TenantInfo | None:
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.wrap_future(self._landed)
        except TimeoutError:
            return None


class Flights:
    """Lets one of many equal look-ups ask for all.

    Threads share a flight, and so do the tasks of one event loop. A thread never waits for a task:
    it may be blocking the very loop that the task needs.
    """

    def __init__(self) -> None:
        self._lock = _forks.lock()
        self._flights: dict[
            tuple[Key, asyncio.AbstractEventLoop | None], Future[TenantInfo | None]
        ] = {}
        _forks.in_child(self, Flights._begin_anew)

    def _begin_anew(self) -> None:
        self._flights.clear()  # none of them lands in a forked child

    def board(self, key: Key) -> Io[Flight]:
        """Join the look-up that is under way, or lead a new one."""

        async def board_on_loop() -> Flight:
            return self._board(key, asyncio.get_running_loop())

        return Io(lambda: self._board(key, None), board_on_loop)

    def _board(self, key: Key, loop: asyncio.AbstractEventLoop | None) -> Flight:
        place = (key, loop)
        with self._lock:
            under_way = self._flights.get(place)
            landed = (
                under_way if under_way is not None else self._flights.setdefault(place, Future())
            )
            if under_way is None:
                # Running futures cannot be cancelled: a caller that stops waiting stops no other.
                landed.set_running_or_notify_cancel()
        return Flight(under_way is None, landed, lambda: self._end(place))

    def _end(self, place: tuple[Key, asyncio.AbstractEventLoop | None]) -> None:
        with self._lock:
            self._flights.pop(place, None)
