"""On an event loop, what is just told of is worked on at once, however few hands there are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from langchain_convsync._flow import Flow, Io, arun
from langchain_convsync.stores import EventStore, SQLiteEventStore, Taken
from langchain_convsync.turns import worker
from langchain_convsync.turns.worker import Crew
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

    def __call__(self, taken: Taken) -> Flow[None]:
        self.at_it.append(taken.lease.cid)
        self.changed.set()
        yield from Io(lambda: None, self.may_end.wait)
        for op in taken.ops:
            yield from self.store.op_done(taken.lease, op.id, 0, last=True)
            self.delivered.append(op.id)
        yield from self.store.release(taken.lease)
        self.changed.set()

    async def until(self, told: int, what: list[str]) -> None:
        async with asyncio.timeout(5.0):  # a failure, not a hang
            while len(what) < told:
                self.changed.clear()
                await self.changed.wait()


@pytest.fixture
async def delivering(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Delivering]:
    """Nobody looks for work by chance: the hand rests until it is told of some."""
    monkeypatch.setattr(worker, "FIRST_LOOK", 60.0)
    store = SQLiteEventStore(":memory:")
    yield Delivering(store)
    await store.aclose()


@pytest.fixture
async def crew(delivering: Delivering) -> AsyncIterator[Crew]:
    crew = Crew(delivering.store, {"write": delivering}, hands=1, lease=30.0)
    await crew.astart()
    # The hand has looked, and found nothing.
    while not crew._bells["write"]._resting:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0)
    yield crew
    await crew.astop(5.0)


async def test_conversations_do_not_wait_for_a_hand(delivering: Delivering, crew: Crew) -> None:
    """Three at a time with a single hand."""
    for number, customer in enumerate(CUSTOMERS):
        committed(delivering.store, blocking, str(number), customer=customer)
        crew.hurry(conversation(customer), "write")

    await delivering.until(3, delivering.at_it)

    assert set(delivering.at_it) == set(map(conversation, CUSTOMERS))
    delivering.may_end.set()


async def test_what_comes_while_an_errand_is_run_is_delivered_by_it(
    delivering: Delivering, crew: Crew
) -> None:
    """Nobody has to look for it."""
    committed(delivering.store, blocking, "1")
    crew.hurry(conversation(), "write")
    await delivering.until(1, delivering.at_it)

    committed(delivering.store, blocking, "2")
    crew.hurry(conversation(), "write")
    delivering.may_end.set()
    await delivering.until(2, delivering.delivered)

    assert (await arun(delivering.store.backlog())).writes == 0


async def test_there_are_only_so_many_errands(
    delivering: Delivering, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An API server that hangs must not get all connections; the hand takes the rest."""
    monkeypatch.setattr(crew, "_most", 1)
    for number, customer in enumerate(CUSTOMERS):
        committed(delivering.store, blocking, str(number), customer=customer)
        crew.hurry(conversation(customer), "write")

    await delivering.until(2, delivering.at_it)  # the errand, and the hand
    for _ in range(20):
        await asyncio.sleep(0)

    assert len(delivering.at_it) == 2
    delivering.may_end.set()
    await delivering.until(3, delivering.delivered)
