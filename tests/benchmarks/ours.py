"""Our own flow: ``TurnRunner`` in its variants."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Literal

from langchain_convsync import (
    AsyncConvSyncClient,
    ConvSyncClient,
    InboundEvent,
    RedisEventStore,
    SQLiteEventStore,
    Turn,
    TurnRunner,
)
from langchain_convsync._flow import arun, run
from langchain_convsync.settings import Transport
from langchain_convsync.stores import EventStore
from tests.benchmarks.agents import Agent, decided
from tests.benchmarks.customers import Customer
from tests.benchmarks.flows import AsyncFlow, Awaited, Blocking, BlockingFlow
from tests.benchmarks.place import Place

StoreKind = Literal["redis", "sqlite"]
STORES: tuple[StoreKind, ...] = ("redis", "sqlite")
#: Seconds between two looks at what is left to write.
LOOK = 0.005


def new_store(place: Place, kind: StoreKind) -> EventStore:
    """The benchmarks' store of a kind; close it."""
    return (
        RedisEventStore(place.redis_url) if kind == "redis" else SQLiteEventStore(place.sqlite_file)
    )


class _Moments:
    """When replies could be sent: as ``on_reply`` tells it, right after a turn's commit."""

    def __init__(self) -> None:
        self._at: dict[str, float] = {}

    def note(self, turn: Turn) -> None:
        self._at[turn.events[-1]] = time.perf_counter()

    def of(self, event: InboundEvent, turn: Turn) -> float:
        if turn.status != "answered":
            message = f"a turn was {turn.status}"
            raise RuntimeError(message) from turn.error
        return self._at.pop(event.event_id)


def _event(customer: Customer, text: str) -> InboundEvent:
    return InboundEvent(
        event_id=customer.event_id(text), phone_number=customer.phone_number, text=text
    )


class _Ours:
    def __init__(self, runner: TurnRunner, moments: _Moments) -> None:
        self._runner, self._moments = runner, moments

    def turn(self, customer: Customer, text: str) -> float:
        event = _event(customer, text)
        return self._moments.of(event, self._runner.run(event))

    def settle(self) -> None:
        while run(self._runner.store.backlog()).writes:
            time.sleep(LOOK)


class _OursAwaited:
    def __init__(self, runner: TurnRunner, moments: _Moments) -> None:
        self._runner, self._moments = runner, moments

    async def turn(self, customer: Customer, text: str) -> float:
        event = _event(customer, text)
        return self._moments.of(event, await self._runner.arun(event))

    async def settle(self) -> None:
        while (await arun(self._runner.store.backlog())).writes:  # noqa: ASYNC110 - other processes' too
            await asyncio.sleep(LOOK)


def _runner(
    agent: Agent,
    client: ConvSyncClient | AsyncConvSyncClient,
    store: EventStore,
    moments: _Moments,
) -> TurnRunner:
    return TurnRunner(
        agent,
        client=client,
        store=store,
        extractor=decided,
        on_reply=moments.note,
        max_turns_per_minute=None,  # these customers are machines
    )


@contextmanager
def _opened(place: Place, agent: Agent, kind: StoreKind, *, in_block: bool) -> Iterator[Blocking]:
    store, client, moments = new_store(place, kind), ConvSyncClient(place.api_url), _Moments()
    runner = _runner(agent, client, store, moments)
    try:
        if in_block:
            with runner:
                yield _Ours(runner, moments)
        else:
            yield _Ours(runner, moments)
    finally:
        client.close()
        store.close()


@asynccontextmanager
async def _aopened(
    place: Place, agent: Agent, kind: StoreKind, *, in_block: bool, aiohttp: bool
) -> AsyncIterator[Awaited]:
    transport: Transport = "aiohttp" if aiohttp else "httpx"
    client = AsyncConvSyncClient(place.api_url, transport=transport)
    store, moments = new_store(place, kind), _Moments()
    runner = _runner(agent, client, store, moments)
    try:
        if in_block:
            async with runner:
                yield _OursAwaited(runner, moments)
        else:
            yield _OursAwaited(runner, moments)
    finally:
        await client.aclose()
        await store.aclose()


def ours(kind: StoreKind, *, in_block: bool = False, aiohttp: bool = False) -> AsyncFlow:
    """Our flow on an event loop.

    Args:
        kind: The store.
        in_block: Whether workers deliver the writes; else each call delivers its own.
        aiohttp: Whether requests travel over aiohttp.
    """
    name = ", ".join(
        ["ours", kind, *(["aiohttp"] if aiohttp else []), *(["block"] if in_block else [])]
    )
    return AsyncFlow(
        name, lambda place, agent: _aopened(place, agent, kind, in_block=in_block, aiohttp=aiohttp)
    )


def ours_sync(kind: StoreKind, *, in_block: bool = False) -> BlockingFlow:
    """Our flow on threads."""
    name = ", ".join(["ours", kind, "sync", *(["block"] if in_block else [])])
    return BlockingFlow(name, lambda place, agent: _opened(place, agent, kind, in_block=in_block))
