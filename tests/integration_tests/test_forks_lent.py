"""What a caller lends serves forked children too: their connections are not the parent's."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import redis
import redis.asyncio

from langchain_convsync._flow import run
from langchain_convsync.client import AsyncConvSyncClient, ConvSyncClient
from langchain_convsync.stores import Keys, NewEvent, RedisEventStore
from langchain_convsync.stores.base import EventStore
from langchain_convsync.testing import ReferenceServer
from tests.forks import alike, forked
from tests.redis_server import RedisServer
from tests.redis_topologies import RedisCluster, WatchedRedis

pytestmark = [
    pytest.mark.slow,  # `test_forks.py` tells that a child gets its own answer
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork"),
]

FEW = 8
PHONES = [f"+5199999990{number}" for number in range(4)]
OWN = [f"tenant{number % len(PHONES)}" for number in range(FEW)]


@pytest.fixture(scope="module")
def server() -> Iterator[ReferenceServer]:
    """Four customers of four tenants."""
    with ReferenceServer() as running:
        for number, phone in enumerate(PHONES):
            running.create_conversation(phone_number=phone, subdomain=f"tenant{number}", bot_id="b")
        ConvSyncClient(running.base_url).lookup_tenant(PHONES[0])  # imports what children would
        yield running


class OwnKind(httpx.Client):
    """A client as a company's library brings it."""


class Logged(httpx.BaseTransport):
    """One transport around another."""

    def __init__(self) -> None:
        self._wrapped = httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self._wrapped.handle_request(request)

    def close(self) -> None:
        self._wrapped.close()


class Duck:
    """A transport in all but its class."""

    def __init__(self) -> None:
        self._wrapped = httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self._wrapped.handle_request(request)

    def close(self) -> None:
        self._wrapped.close()


class AsyncLogged(httpx.AsyncBaseTransport):
    """The first, awaited."""

    def __init__(self) -> None:
        self._wrapped = httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._wrapped.handle_async_request(request)

    async def aclose(self) -> None:
        await self._wrapped.aclose()


LENT: dict[str, Callable[[], httpx.Client]] = {
    "class": OwnKind,
    "transport": lambda: httpx.Client(transport=Logged()),
    "duck": lambda: httpx.Client(transport=Duck()),  # type: ignore[arg-type]
    "mounts": lambda: httpx.Client(mounts={"http://": httpx.HTTPTransport()}),
    "one connection": lambda: httpx.Client(limits=httpx.Limits(max_connections=1)),
}


@pytest.mark.parametrize("kind", LENT)
def test_a_lent_client_of_any_kind(kind: str, server: ReferenceServer) -> None:
    """However deep its connections lie, none of them is shared."""
    lent = LENT[kind]()
    client = ConvSyncClient(server.base_url, max_retries=0, http_client=lent, timeout=60.0)
    client.health()
    told = forked(
        *alike(lambda number: client.lookup_tenant(PHONES[number % 4]).subdomain, FEW),
        meanwhile=lambda: client.lookup_tenant(PHONES[0]),
    )
    assert told == OWN
    assert client.lookup_tenant(PHONES[0]).subdomain == "tenant0"
    lent.close()


def test_a_lent_client_whose_transport_is_awaited(server: ReferenceServer) -> None:
    """Each child on an event loop of its own."""
    lent = httpx.AsyncClient(transport=AsyncLogged())
    client = AsyncConvSyncClient(server.base_url, max_retries=0, http_client=lent, timeout=60.0)

    async def tenant(number: int) -> str:
        return (await client.lookup_tenant(PHONES[number % 4])).subdomain

    with asyncio.Runner() as loop:
        loop.run(client.health())
        told = forked(*alike(lambda number: asyncio.run(tenant(number)), FEW))
        assert loop.run(tenant(0)) == "tenant0"
        loop.run(lent.aclose())
    assert told == OWN


def test_a_lent_client_whose_only_connection_is_in_use(server: ReferenceServer) -> None:
    """The parent's call takes no place in the child's pool."""
    began, go_on = threading.Event(), threading.Event()

    lent = httpx.Client(limits=httpx.Limits(max_connections=1), timeout=60.0)
    client = ConvSyncClient(server.base_url, max_retries=0, http_client=lent, timeout=60.0)

    def in_use() -> None:
        with lent.stream("GET", server.base_url):
            began.set()
            go_on.wait()

    thread = threading.Thread(target=in_use)
    thread.start()
    began.wait()
    told = forked(*alike(lambda number: client.lookup_tenant(PHONES[number % 4]).subdomain, 2))
    go_on.set()
    thread.join()
    lent.close()
    assert told == OWN[:2]


def event(name: str) -> NewEvent:
    keys = Keys(b"key")
    return NewEvent(
        event_key=keys.event("ventas", "", "message", name),
        conversation_key=keys.conversation("ventas", name),
        payload="{}",
    )


def accepted(store: EventStore, name: str) -> str:
    return run(store.accept(event(name))).status


async def aaccepted(store: EventStore, name: str) -> str:
    return (await store.accept(event(name)).wait()).status


def served(store: EventStore, lent: Any) -> list[str]:
    """What children of a parent whose connections are open are told, sync and async."""
    with asyncio.Runner() as loop:
        accepted(store, "sync")
        loop.run(aaccepted(store, "async"))

        def child(number: int) -> str:
            own = asyncio.run(aaccepted(store, f"async {number}"))
            return f"{own} {accepted(store, f'sync {number}')}"

        told = forked(*alike(child, FEW), meanwhile=lambda: accepted(store, "parent"))
        told.append(loop.run(aaccepted(store, "again")))
        loop.run(_closed(store, lent))
    return told


async def _closed(store: EventStore, lent: Any) -> None:
    await store.aclose()
    await lent.aclose()


def test_lent_redis_clients(redis_server: RedisServer) -> None:
    """One of each colour, over one server."""
    redis_server.empty()
    with redis.Redis.from_url(redis_server.url) as lent:
        awaited = redis.asyncio.Redis.from_url(redis_server.url)
        told = served(RedisEventStore(client=lent, async_client=awaited), awaited)
    assert told == ["new new"] * FEW + ["new"]


def test_clients_of_a_cluster(cluster: RedisCluster) -> None:
    """The store's own, and lent ones."""
    own = RedisEventStore(cluster.url)
    assert served(own, own) == ["new new"] * FEW + ["new"]
    port = int(cluster.url.rpartition(":")[2])
    with redis.RedisCluster("127.0.0.1", port) as lent:
        lent.flushall(target_nodes="primaries")
        awaited = redis.asyncio.RedisCluster("127.0.0.1", port)
        told = served(RedisEventStore(client=lent, async_client=awaited), awaited)
    assert told == ["new new"] * FEW + ["new"]


def test_clients_of_a_watched_primary() -> None:
    """The store's own connections to the sentinel, and to what it knows."""
    with WatchedRedis() as watched:
        own = RedisEventStore(watched.url)
        assert served(own, own) == ["new new"] * FEW + ["new"]
