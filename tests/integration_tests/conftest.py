"""The stores that behaviour is tested on: each one a real one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from langchain_convsync.stores import open_store
from langchain_convsync.stores.base import EventStore
from tests.faulty_server import over_aiohttp
from tests.redis_server import RedisServer
from tests.redis_topologies import RedisCluster

#: Which way of calling `make test` leaves out on which store: every store is called in one way, and
#: every way is used on one store. The stores' own tests call each operation of each in both.
LEFT_OUT = ({"sqlite", "async"}, {"redis", "sync"})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the other half of what is tested on every store in both ways as slow."""
    for item in items:
        if isinstance(item, pytest.Function) and hasattr(item, "callspec"):
            named = set(item.callspec.id.split("-"))
            if any(pair <= named for pair in LEFT_OUT):
                item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One server for all tests that leave it alive; they share nothing but the process."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def cluster_processes() -> Iterator[RedisCluster]:
    """Nodes for all tests that have them all run in the end: they need seconds to start."""
    with RedisCluster() as running:
        yield running


@pytest.fixture
def cluster(cluster_processes: RedisCluster) -> RedisCluster:
    """Three nodes, ready and empty."""
    cluster_processes.settle()
    cluster_processes.empty()
    return cluster_processes


@pytest.fixture(params=["sqlite", "redis"])
def durable_store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store that outlives its process, empty: a file, or a real Redis."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'events.db'}"
    server: RedisServer = request.getfixturevalue("redis_server")
    server.empty()
    return server.url


@pytest.fixture
def event_store(durable_store_url: str) -> Iterator[EventStore]:
    """An empty store of every kind."""
    store = open_store(durable_store_url)
    yield store
    store.close()


@pytest.fixture(params=["aiohttp", "httpx"])
def transport(request: pytest.FixtureRequest) -> Iterator[str]:
    """What async calls travel over."""
    with over_aiohttp() if request.param == "aiohttp" else nullcontext():
        yield request.param
