"""Redis restarts, dies, and loses answers on the wire: nothing is lost, nothing is done twice."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import pytest
import redis

from langchain_convsync._flow import Io
from langchain_convsync.errors import StoreUnavailableError
from langchain_convsync.stores import Backlog, EventStore, RedisEventStore
from tests.dropping_proxy import DroppingProxy
from tests.redis_server import RedisServer
from tests.store_cases import CALLS, FIRST, Do, committed, event, queue_of, ready

pytest_plugins = ("tests.store_fixtures",)


def test_a_restarted_server_is_taught_the_scripts_again(do: Do) -> None:
    """EVALSHA answers NOSCRIPT; the caller notices nothing, and nothing is lost."""
    with RedisServer() as server:
        store = RedisEventStore(server.url)
        committed(store, do)
        server.restart()
        acquired = queue_of(store, do)
        do(Io(store.close, store.aclose))

    assert [operation.id for operation in acquired.operations] == [FIRST]


def accept_on_and_on(store: EventStore, acknowledged: list[str]) -> None:
    """Until the store fails."""
    for n in itertools.count(len(acknowledged)):
        new = event(str(n), customer=str(n % 7))
        store.accept(new).block()
        acknowledged.append(new.event_key)


def test_nothing_acknowledged_is_lost_when_the_server_is_killed(no_pause: None) -> None:
    """With an append-only file, at any moment, several times."""
    acknowledged: list[str] = []
    with RedisServer() as server:
        store = RedisEventStore(server.url)
        for _ in range(3):
            killer = threading.Timer(0.05, server.kill9)
            killer.start()
            with pytest.raises(StoreUnavailableError, match="check that it runs"):
                accept_on_and_on(store, acknowledged)
            killer.join()
            server.start()
        found: list[str] = []
        while acquired := store.acquire("inbox", f"token {len(found)}").block():
            found += [queued.event_key for queued in acquired.events]
        store.close()

    assert set(acknowledged) <= set(found)
    assert len(found) == len(set(found))


def test_a_server_that_is_down_fails_clearly_and_works_again_when_it_is_up(
    do: Do, no_pause: None
) -> None:
    """No restart of the agent is needed."""
    with RedisServer() as server:
        store = RedisEventStore(server.url)
        do(store.accept(event("1")))
        server.kill9()
        with pytest.raises(StoreUnavailableError) as error:
            do(store.accept(event("2")))
        server.start()
        again = do(store.accept(event("2")))
        do(Io(store.close, store.aclose))

    assert isinstance(error.value.__cause__, redis.ConnectionError)
    assert again.status == "new"


# Lost answers


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[DroppingProxy]:
    passing = DroppingProxy(server.port)
    yield passing
    passing.close()


@pytest.mark.parametrize("name", CALLS)
def test_an_answer_lost_on_the_wire_is_answered_again(
    name: str, server: RedisServer, proxy: DroppingProxy, do: Do, no_pause: None
) -> None:
    """Whatever the server applied before the connection broke is applied once."""
    answers, backlogs = [], []
    for drops in (0, 2):
        server.empty()
        store = RedisEventStore(proxy.url, clock=lambda: 1000.0)
        has = ready(store)
        if name.startswith("acquire"):
            store.release(has[0]).block()
        proxy.drops = drops
        answers.append(do(CALLS[name](store, has)))
        backlogs.append(store.backlog().block())
        do(Io(store.close, store.aclose))

    assert proxy.drops == 0
    assert answers[0] == answers[1]
    assert backlogs[0] == backlogs[1]


def test_the_caller_can_repeat_what_failed_for_good(
    proxy: DroppingProxy, do: Do, no_pause: None
) -> None:
    """More answers were lost than the store retries: the same step still answers the same."""
    store = RedisEventStore(proxy.url)
    do(store.keys())
    step = store.accept(event(), token="mine")
    proxy.drops = 3
    with pytest.raises(StoreUnavailableError):
        do(step)
    accepted = do(step)
    backlog = do(store.backlog())
    do(Io(store.close, store.aclose))

    assert (accepted.status, accepted.acquired.lease.epoch) == ("new", 1)
    assert backlog == Backlog(queued=1)
