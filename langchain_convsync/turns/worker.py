"""Working on whatever is due: turns that nobody waits for, writes that are not delivered yet."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping

from langchain_convsync import telemetry
from langchain_convsync._flow import Flow, arun, run, sleep
from langchain_convsync.errors import ClosedError, StoreError
from langchain_convsync.stores.base import EventStore, Lane, Taken, new_token
from langchain_convsync.turns.bell import Bell

logger = logging.getLogger(__name__)

#: Seconds between looks at a store without due work: doubled each time, up to the last.
FIRST_LOOK, LAST_LOOK = 0.01, 0.25
#: Seconds before a store that did not answer is asked again.
STORE_PAUSE = 1.0

Work = Callable[[Taken], Flow[None]]


class Crew:
    """Threads or tasks that take due work of some lanes until they are stopped.

    Args:
        store: Where the work is.
        work: What to do with a taken lane; it gives the lease back.
        hands: How many work on each of these lanes at once.
        lease: Seconds after which another process takes over.
        at_once: Turns of one account that may run at the same time; 0 for any number.
    """

    def __init__(
        self,
        store: EventStore,
        work: Mapping[Lane, Work],
        *,
        hands: int,
        lease: float,
        at_once: int = 0,
    ) -> None:
        self._store = store
        self._work = work
        self._lanes = [lane for lane in work for _ in range(hands)]
        self._lease = lease
        self._at_once = at_once
        self._stopping = threading.Event()
        self._bells = {lane: Bell() for lane in work}
        self._threads: list[threading.Thread] = []
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin, on threads."""
        for lane in self._lanes:
            thread = threading.Thread(
                target=run,
                args=(self._serve(lane),),
                name=f"convsync-{lane}",
                daemon=True,  # a stuck agent must not keep its process alive
            )
            thread.start()
            self._threads.append(thread)

    def ring(self, *lanes: Lane) -> None:
        """There is work in these lanes now: one who looks for some need not wait."""
        for lane in lanes:
            if lane in self._bells:
                self._bells[lane].ring()

    def stop(self, seconds: float) -> None:
        """Let each finish what it is at, for so many seconds at most."""
        self._stop()
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    async def astart(self) -> None:
        """Begin, as tasks of the running loop."""
        self._tasks = [asyncio.create_task(arun(self._serve(lane))) for lane in self._lanes]

    async def astop(self, seconds: float) -> None:
        """Let each finish what it is at, for so many seconds at most."""
        self._stop()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _stop(self) -> None:
        self._stopping.set()
        self.ring(*self._lanes)

    def _serve(self, lane: Lane) -> Flow[None]:
        look = FIRST_LOOK
        while not self._stopping.is_set():
            try:
                worked = yield from self._one(lane)
            except ClosedError:
                return
            except Exception as error:  # noqa: BLE001 - the lease ends by itself; the rest goes on
                telemetry.count("worker_failures", lane=lane, error=type(error).__name__)
                told = str(error) if isinstance(error, StoreError) else type(error).__name__
                logger.warning("Work on the %s lane failed: %s", lane, told)
                yield from sleep(STORE_PAUSE)
                continue
            if worked:
                look = FIRST_LOOK
                continue
            yield from self._bells[lane].rest(look)
            look = min(LAST_LOOK, look * 2)

    def _one(self, lane: Lane) -> Flow[bool]:
        taken = yield from self._store.take(
            lane, new_token(), lease=self._lease, at_once=self._at_once
        )
        if taken is None:
            return False
        yield from self._work[lane](taken)
        return True
