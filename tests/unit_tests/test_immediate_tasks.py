"""On an event loop, what was just dispatched is worked on at once, however few workers exist."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from langchain_convsync._flow import Flow, Io, Polling, arun
from langchain_convsync.stores import Acquired, EventStore, SQLiteEventStore
from langchain_convsync.turns.worker import IMMEDIATE_TASKS, WorkerPool
from tests.store_cases import blocking, committed, conversation

CUSTOMERS = ("ana", "eva", "zoe")


class Delivering:
    """Work that lasts until it may end."""

    def __init__(self, store: EventStore) -> None:
        self.store = store
        self.at_it: list[str] = []
        self.delivered: list[str] = []
        self.changed = asyncio.Event()
        self.may_end = asyncio.Event()

    def __call__(self, acquired: Acquired) -> Flow[None]:
        self.at_it.append(acquired.lease.conversation_key)
        self.changed.set()
        yield from Io(lambda: None, self.may_end.wait)
        for operation in acquired.operations:
            yield from self.store.confirm(acquired.lease, operation.id, 0, last=True)
            self.delivered.append(operation.id)
        yield from self.store.release(acquired.lease)
        self.changed.set()

    async def until(self, told: int, what: list[str]) -> None:
        async with asyncio.timeout(5.0):  # a failure, not a hang
            while len(what) < told:
                self.changed.clear()
                await self.changed.wait()


@pytest.fixture
async def delivering(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Delivering]:
    """No worker looks for work by chance: each waits until it is woken."""
    monkeypatch.setattr(Polling, "FIRST", 60.0)
    store = SQLiteEventStore(":memory:")
    yield Delivering(store)
    await store.aclose()


@pytest.fixture
async def pool(delivering: Delivering) -> AsyncIterator[WorkerPool]:
    pool = WorkerPool(delivering.store, {"outbox": delivering}, workers=1, lease=30.0)
    await pool.astart()
    # The worker has looked, and found nothing.
    while not pool._wakeups["outbox"]._waiting:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0)
    yield pool
    await pool.astop(5.0)


async def test_conversations_do_not_wait_for_a_worker(
    delivering: Delivering, pool: WorkerPool
) -> None:
    """Three at a time with a single worker."""
    for number, customer in enumerate(CUSTOMERS):
        committed(delivering.store, blocking, str(number), customer=customer)
        pool.dispatch(conversation(customer), "outbox")

    await delivering.until(3, delivering.at_it)

    assert set(delivering.at_it) == set(map(conversation, CUSTOMERS))
    delivering.may_end.set()


async def test_what_comes_during_an_immediate_task_is_delivered_by_it(
    delivering: Delivering, pool: WorkerPool
) -> None:
    """Nobody has to look for it."""
    committed(delivering.store, blocking, "1")
    pool.dispatch(conversation(), "outbox")
    await delivering.until(1, delivering.at_it)

    committed(delivering.store, blocking, "2")
    pool.dispatch(conversation(), "outbox")
    delivering.may_end.set()
    await delivering.until(2, delivering.delivered)

    assert (await arun(delivering.store.backlog())).writes == 0


async def test_there_are_only_so_many_immediate_tasks(
    delivering: Delivering, pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An API server that hangs must not get all connections; the worker does the rest."""
    monkeypatch.setattr(pool, "_most", 1)
    for number, customer in enumerate(CUSTOMERS):
        committed(delivering.store, blocking, str(number), customer=customer)
        pool.dispatch(conversation(customer), "outbox")

    await delivering.until(2, delivering.at_it)  # the task, and the worker
    for _ in range(20):
        await asyncio.sleep(0)

    assert len(delivering.at_it) == 2
    delivering.may_end.set()
    await delivering.until(3, delivering.delivered)


def test_workers_that_are_just_looking_for_work_stop_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many they are: none of them begins to wait."""
    monkeypatch.setattr(Polling, "LAST", 60.0)
    looking, may_end = threading.Semaphore(0), threading.Event()

    def look() -> None:
        looking.release()
        may_end.wait()

    memory = SQLiteEventStore(":memory:")
    store: Any = SimpleNamespace(
        acquire=lambda *_, **__: Io(look, asyncio.Event().wait),
        listen=memory.listen,
        upcoming=memory.upcoming,
    )
    unused: Any = None
    pool = WorkerPool(store, {"outbox": unused}, workers=3, lease=30.0)
    pool.start()
    for _ in range(3):
        looking.acquire()

    pool._stop()
    may_end.set()

    threads = [hired.thread for hired in pool._hired if hired.thread is not None]
    for thread in threads:
        thread.join(5.0)
    assert len(threads) == len(pool._hired)
    assert not any(thread.is_alive() for thread in threads)


async def test_a_worker_of_a_loop_stands_for_so_many_at_once(
    delivering: Delivering, pool: WorkerPool
) -> None:
    """One that looks for work, and eight that begin right after their commit."""
    customers = [f"+5199999{number:04}" for number in range(12)]
    for number, customer in enumerate(customers):
        committed(delivering.store, blocking, str(number), customer=customer)
        pool.dispatch(conversation(customer), "outbox")

    await delivering.until(1 + IMMEDIATE_TASKS, delivering.at_it)
    for _ in range(50):
        await asyncio.sleep(0)

    assert len(delivering.at_it) == 1 + IMMEDIATE_TASKS == 9
    delivering.may_end.set()
    await delivering.until(len(customers), delivering.delivered)


def test_a_worker_of_a_thread_is_at_one_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is dispatched waits until a worker is free."""
    monkeypatch.setattr(Polling, "FIRST", 60.0)
    store = SQLiteEventStore(":memory:")
    at_it, most, done = [0], [0], threading.Semaphore(0)
    both, lock = threading.Barrier(2), threading.Lock()

    def work(acquired: Acquired) -> Flow[None]:
        with lock:
            at_it[0] += 1
            most[0] = max(most[0], at_it[0])
        both.wait(5.0)  # two are at it together, and no third
        with lock:
            at_it[0] -= 1
        for operation in acquired.operations:
            yield from store.confirm(acquired.lease, operation.id, 0, last=True)
        yield from store.release(acquired.lease)
        done.release()

    for number in range(6):
        committed(store, blocking, str(number), customer=f"+5199999{number:04}")
    pool = WorkerPool(store, {"outbox": work}, workers=2, lease=30.0)
    pool.start()
    for _ in range(6):
        assert done.acquire(timeout=5.0)
    pool.stop(5.0)
    store.close()

    assert most[0] == 2
