"""Working on whatever is due: turns that no caller waits for, writes that are not delivered yet."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from langchain_convsync import _machine, telemetry
from langchain_convsync._flow import (
    Flow,
    Io,
    arun,
    monotonic,
    on_thread,
    run,
    running_loop,
    sleep,
)
from langchain_convsync._platform import Joinable, spawn
from langchain_convsync._wakeup import Wakeup
from langchain_convsync.errors import (
    ClosedError,
    ConfigurationError,
    StoreDamagedError,
    StoreError,
)
from langchain_convsync.stores.base import Acquired, EventStore, QueueName, new_token
from langchain_convsync.turns.lookout import STORE_PAUSE, Lookout
from langchain_convsync.turns.stopping import leave_behind, replace_when_stuck

logger = logging.getLogger(__name__)

#: Seconds for which a store counts as short of something after it refused a write for that. Who
#: finds no process ready repeats a delivery for longer.
SHORT_FOR = 10.0
#: Seconds between looks at what there is to do, where OpenTelemetry listens.
LOOK_PERIOD = 15.0
#: Immediate tasks at a time, for each worker: beyond them, work waits for a worker.
IMMEDIATE_TASKS = 8

Work = Callable[[Acquired], Flow[object]]
Ready = Callable[[], Flow[None]]


def always() -> Flow[None]:
    """Nothing keeps a worker from work."""
    yield from ()


QUEUE_TITLES: Mapping[QueueName, str] = {
    "inbox": "inbox",
    "outbox": "outbox",
    "replies": "reply queue",
}


class WorkerPool:
    """Threads or tasks that do the due work of some queues until they are stopped.

    On an event loop, work that was just dispatched needs no worker: it is a task of its own.

    Args:
        store: Where the work is.
        work: What to do with an acquired queue; it gives the lease back.
        ready: Asked before each acquire; what it raises keeps the worker from work.
        workers: How many work on each of these queues at once.
        lease: Seconds after which another process takes over.
        account_concurrency: Turns of one account that may run at the same time; 0 for any number.
        look: Tells OpenTelemetry what there is to do, on the lookout's thread.
        lookout: Hears of work that other processes leave.
    """

    def __init__(
        self,
        store: EventStore,
        work: Mapping[QueueName, Work],
        *,
        ready: Ready = always,
        workers: int,
        lease: float,
        account_concurrency: int = 0,
        look: Callable[[], Flow[None]] | None = None,
        lookout: Lookout | None = None,
    ) -> None:
        self._store = store
        self._lookout = lookout or Lookout(store)
        self._work = work
        self._ready = ready
        self._queues = [queue for queue in work for _ in range(workers)]
        self._lease = lease
        self._account_concurrency = account_concurrency
        self._stopping = threading.Event()
        self._wakeups = {queue: Wakeup(workers) for queue in work}
        self._hired: list[_Hired] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._immediate: dict[tuple[QueueName, str], _ImmediateTask] = {}
        self._most = IMMEDIATE_TASKS * workers
        self._refused = (-SHORT_FOR, "")
        self._look, self._looks_at = look, 0.0

    def start(self) -> None:
        """Begin, on threads."""
        self._look_out()
        for queue in self._queues:
            self._hire(queue)

    def _look_out(self) -> None:
        if self._work:
            limited = self._account_concurrency > 0
            self._lookout.begin(self._wakeups, is_limited=limited, also=self._looked)

    def _hire(self, queue: QueueName) -> None:
        hired = _Hired()
        self._hired.append(hired)
        hired.thread = spawn(lambda: self._work_on(queue, hired), f"convsync-{queue}")

    def _work_on(self, queue: QueueName, hired: _Hired) -> None:
        """A worker's life on its thread: should that get stuck, another one goes on."""

        def replace() -> None:
            if hired in self._hired:
                self._hired.remove(hired)  # nobody waits for it
                if not self._stopping.is_set():
                    self._hire(queue)

        replace_when_stuck(replace)
        run(self._serve(queue, lambda: hired in self._hired))

    def notify(self, *queues: QueueName) -> None:
        """There is work in these queues now: a worker that waits for some need not wait longer."""
        for queue in queues:
            if queue in self._wakeups:
                self._wakeups[queue].notify()

    def dispatch(self, conversation_key: str, *queues: QueueName) -> None:
        """There is work in these queues of a conversation now."""
        if self._loop is None or self._loop is not _running_loop():
            self.notify(*queues)
            return
        for queue in queues:
            running = self._immediate.get((queue, conversation_key))
            if running is not None:
                running.again = True
            elif queue in self._work and len(self._immediate) < self._most:
                task = self._loop.create_task(self._run_immediate(queue, conversation_key))
                self._immediate[queue, conversation_key] = _ImmediateTask(task)
            else:
                self.notify(queue)

    async def _run_immediate(self, queue: QueueName, conversation_key: str) -> None:
        try:
            again = True
            while again and not self._stopping.is_set():
                self._immediate[queue, conversation_key].again = False
                await arun(self._tried(queue, conversation_key))
                again = self._immediate[queue, conversation_key].again
        except ClosedError:
            pass
        finally:
            del self._immediate[queue, conversation_key]

    @property
    def shortage(self) -> str:
        """What the store lacked a moment ago for a write, and what to do; empty: nothing."""
        at, why = self._refused
        return why if monotonic() < at + SHORT_FOR else ""

    def noticed(self, error: Exception) -> bool:
        """Whether the machine is to blame for an error; where it is the store's, that is kept."""
        why = _machine.noticed(error)
        if why and isinstance(error, StoreError):
            self._refused = monotonic(), why
        return bool(why)

    def stop(self, seconds: float) -> None:
        """Let each finish what it is at, for so many seconds at most."""
        self._stop()
        until = monotonic() + seconds
        threads = [hired.thread for hired in self._hired if hired.thread is not None]
        for thread in threads:
            thread.join(max(0.0, until - monotonic()))
        self._lookout.join(max(0.0, until - monotonic()))
        if any(thread.is_alive() for thread in threads):
            leave_behind()

    async def astart(self) -> None:
        """Begin, as tasks of the running loop."""
        self._loop = running_loop()
        self._look_out()
        self._tasks = [asyncio.create_task(arun(self._serve(queue))) for queue in self._queues]

    async def astop(self, seconds: float) -> None:
        """Let each finish what it is at, for so many seconds at most."""
        self._stop()
        tasks = [*self._tasks, *(immediate.task for immediate in self._immediate.values())]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=seconds)
            for task in late:
                task.cancel()
            if late:
                leave_behind()
            await asyncio.gather(*tasks, return_exceptions=True)
        if self._work:
            await on_thread(self._lookout.join, seconds)

    def _stop(self) -> None:
        self._stopping.set()
        for wakeup in self._wakeups.values():
            wakeup.end()
        self._lookout.end()

    def _serve(self, queue: QueueName, is_wanted: Callable[[], bool] = lambda: True) -> Flow[None]:
        while is_wanted() and not self._stopping.is_set():
            try:
                worked = yield from self._tried(queue)
            except ClosedError:
                return
            if worked is None:
                yield from sleep(STORE_PAUSE)
            elif not worked:
                yield from self._wakeups[queue].wait(self._lookout.longest_wait)

    def _looked(self) -> Flow[None]:
        """Look what there is to do for whoever listens, if that is due."""
        now = monotonic()
        if self._look is None or now < self._looks_at or not telemetry.is_listened_to():
            return
        self._looks_at = now + LOOK_PERIOD
        yield from self._look()

    def _tried(self, queue: QueueName, conversation_key: str | None = None) -> Flow[bool | None]:
        """Whether there was work; None where it failed.

        Raises:
            ClosedError: The store or the client is closed.
        """
        acquired = None
        try:
            yield from self._ready()
            acquired = yield from self._acquired(queue, conversation_key)
            if acquired is not None:
                yield from self._work[queue](acquired)
        except ClosedError:
            raise
        except ConfigurationError as error:  # it is so until an operator changes it
            telemetry.log(logger, logging.ERROR, None, "workers rest: %s", error, repeats=True)
            return None
        except Exception as error:  # noqa: BLE001 - the lease ends by itself; the rest goes on
            if self.noticed(error):  # which is told and counted apart
                return None
            telemetry.count("worker_failures", queue=queue, error=type(error).__name__)
            if isinstance(error, StoreDamagedError):  # of that the store tells by itself
                return None
            told = "work on its %s failed: %s" if acquired else "the %s cannot be worked on: %s"
            telemetry.log(
                logger,
                logging.WARNING,
                conversation_key if acquired is None else acquired.lease.conversation_key,
                told,
                QUEUE_TITLES[queue],
                error,
                repeats=True,
            )
            return None
        if acquired is not None:
            self._refused = (-SHORT_FOR, "")
        return acquired is not None

    def _acquired(self, queue: QueueName, conversation_key: str | None) -> Io[Acquired | None]:
        return self._store.acquire(
            queue,
            new_token(),
            conversation_key=conversation_key,
            lease=self._lease,
            account_concurrency=self._account_concurrency,
        )


@dataclass(slots=True, eq=False)
class _Hired:
    """A worker on a thread of its own."""

    thread: Joinable | None = None


@dataclass(slots=True)
class _ImmediateTask:
    """Work on one queue of one conversation; ``again`` when more of it was dispatched meanwhile."""

    task: asyncio.Task[None]
    again: bool = False


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
