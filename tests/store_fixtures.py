"""Fixtures of the store tests: each store, sync and async, one clock. A pytest plugin."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from langchain_convsync._flow import Io
from langchain_convsync.stores import EventStore, RedisEventStore, SQLiteEventStore
from tests.redis_server import RedisServer
from tests.store_cases import Clock, Do


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A server for all tests that leave it running; empty it before use."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def server(redis_server: RedisServer) -> RedisServer:
    """The server, empty."""
    redis_server.empty()
    return redis_server


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["blocking", "asynchronous"])
def do(request: pytest.FixtureRequest) -> Iterator[Do]:
    """Performs a step sync or async."""
    if request.param == "blocking":
        yield lambda io: io.block()
        return
    with asyncio.Runner() as loop:

        async def wait(io: Io[Any]) -> Any:
            return await io.wait()

        yield lambda io: loop.run(wait(io))


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, clock: Clock, do: Do) -> Iterator[EventStore]:
    """An empty store of each kind."""
    if request.param == "sqlite":
        opened: EventStore = SQLiteEventStore(":memory:", clock=clock)
    else:
        server: RedisServer = request.getfixturevalue("server")
        opened = RedisEventStore(server.url, clock=clock)
    yield opened
    do(Io(opened.close, opened.aclose))
