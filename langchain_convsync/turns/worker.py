"""Working on whatever is due: turns that nobody waits for, writes that are not delivered yet."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from langchain_convsync import telemetry
from langchain_convsync._flow import Flow, arun, run, sleep
from langchain_convsync.errors import ClosedError, StoreError
from langchain_convsync.stores.base import EventStore, Lane, Taken, new_token
from langchain_convsync.turns.bell import Bell

logger = logging.getLogger(__name__)

#: Seconds between looks for due work: the first behind some that was found, then doubled each time.
FIRST_LOOK, LAST_LOOK = 0.01, 0.25
#: Seconds before a store that did not answer is asked again.
STORE_PAUSE = 1.0
#: Errands at a time, for each hand: beyond them, work waits for a hand.
ERRANDS = 8

Work = Callable[[Taken], Flow[None]]


class Crew:
    """Threads or tasks that take due work of some lanes until they are stopped.

    On an event loop, work that is just told of needs no hand: it is an errand of its own.

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
        self._loop: asyncio.AbstractEventLoop | None = None
        self._errands: dict[tuple[Lane, str], _Errand] = {}
        self._most = ERRANDS * hands

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

    def hurry(self, cid: str, *lanes: Lane) -> None:
        """There is work in these lanes of a conversation now."""
        if self._loop is None or self._loop is not _running_loop():
            self.ring(*lanes)
            return
        for lane in lanes:
            errand = self._errands.get((lane, cid))
            if errand is not None:
                errand.again = True
            elif lane in self._work and len(self._errands) < self._most:
                task = self._loop.create_task(self._run_errand(lane, cid))
                self._errands[lane, cid] = _Errand(task)
            else:
                self.ring(lane)

    async def _run_errand(self, lane: Lane, cid: str) -> None:
        try:
            again = True
            while again and not self._stopping.is_set():
                self._errands[lane, cid].again = False
                await arun(self._tried(lane, cid))
                again = self._errands[lane, cid].again
        except ClosedError:
            pass
        finally:
            del self._errands[lane, cid]

    def stop(self, seconds: float) -> None:
        """Let each finish what it is at, for so many seconds at most."""
        self._stop()
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    async def astart(self) -> None:
        """Begin, as tasks of the running loop."""
        self._loop = asyncio.get_running_loop()
        self._tasks = [asyncio.create_task(arun(self._serve(lane))) for lane in self._lanes]

    async def astop(self, seconds: float) -> None:
        """Let each finish what it is at, for so many seconds at most."""
        self._stop()
        tasks = [*self._tasks, *(errand.task for errand in self._errands.values())]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _stop(self) -> None:
        self._stopping.set()
        self.ring(*self._lanes)

    def _serve(self, lane: Lane) -> Flow[None]:
        look = LAST_LOOK
        while not self._stopping.is_set():
            try:
                worked = yield from self._tried(lane)
            except ClosedError:
                return
            if worked is None:
                yield from sleep(STORE_PAUSE)
            elif worked:
                look = FIRST_LOOK
            else:
                yield from self._bells[lane].rest(look)
                look = min(LAST_LOOK, look * 2)

    def _tried(self, lane: Lane, cid: str | None = None) -> Flow[bool | None]:
        """Whether there was work; None where it failed.

        Raises:
            ClosedError: The store or the client is closed.
        """
        try:
            return (yield from self._one(lane, cid))
        except ClosedError:
            raise
        except Exception as error:  # noqa: BLE001 - the lease ends by itself; the rest goes on
            telemetry.count("worker_failures", lane=lane, error=type(error).__name__)
            told = str(error) if isinstance(error, StoreError) else type(error).__name__
            logger.warning("Work on the %s lane failed: %s", lane, told)
            return None

    def _one(self, lane: Lane, cid: str | None) -> Flow[bool]:
        taken = yield from self._store.take(
            lane, new_token(), cid=cid, lease=self._lease, at_once=self._at_once
        )
        if taken is None:
            return False
        yield from self._work[lane](taken)
        return True


@dataclass(slots=True)
class _Errand:
    """Work on one lane of one conversation; ``again`` when more of it was told of meanwhile."""

    task: asyncio.Task[None]
    again: bool = False


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
