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
from langchain_convsync.turns.worker import WorkerPool
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

    store: Any = SimpleNamespace(acquire=lambda *_, **__: Io(look, asyncio.Event().wait))
    unused: Any = None
    pool = WorkerPool(store, {"outbox": unused}, workers=3, lease=30.0)
    pool.start()
    for _ in range(3):
        looking.acquire()

    pool._stop()
    may_end.set()

    for thread in pool._threads:
        thread.join(5.0)
    threads: list[Any] = pool._threads
    assert not any(thread.is_alive() for thread in threads)
