"""The store on a real Redis: its keys, its connections, and servers that say no."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from typing import Any

import pytest
import redis
import redis.asyncio

from langchain_convsync._flow import Io
from langchain_convsync.errors import ClosedError, StoreFormatError, StoreUnavailableError
from langchain_convsync.stores import Backlog, NewEvent, RedisEventStore
from langchain_convsync.stores.base import FIRST_CONTACTS, SHARDS, AccountKey
from tests.redis_server import RedisServer
from tests.redis_topologies import until
from tests.store_cases import (
    FIRST,
    KEYS,
    Do,
    committed,
    conversation,
    event,
)
from tests.store_checks import check_keys

pytest_plugins = ("tests.store_fixtures",)

# Lives


def test_finished_records_expire_and_live_ones_do_not(server: RedisServer, do: Do) -> None:
    """Nothing that is still needed can vanish, and nothing that is done piles up."""
    store = RedisEventStore(server.url, retention=1000.0)
    committed(store, do, "1", writes=1, replies=1)
    with server.client() as client:
        check_keys(client)
        busy: Any = client.pttl(f"cs:{{s{conversation()[:2]}}}:c:{conversation()}")
        for queue in ("outbox", "replies"):
            acquired = do(store.acquire(queue, queue))
            do(store.confirm(acquired.lease, FIRST, 0, last=True))
        check_keys(client)
        names: Any = client.keys()
        lives = {name.decode(): client.pttl(name) for name in names if name != b"cs:meta"}
    do(Io(store.close, store.aclose))

    assert busy == -1
    assert {name.split(":")[2] for name in lives} == {"ev", "said", "c", "token", "count"}
    assert all(0 < life <= 1_000_000 for name, life in lives.items() if "count" not in name)


def test_nothing_in_the_keys_names_a_customer(server: RedisServer, do: Do) -> None:
    """A backup of the keys, or a slow log, shows no phone number and no account."""
    store = RedisEventStore(server.url)
    phone, account = "51999999999", "restaurant-abc"
    keys = do(store.keys())
    new = NewEvent(
        event_key=keys.event(account, "", "message", f"false_{phone}@c.us_ABC"),
        conversation_key=keys.conversation(account, f"+{phone}"),
        aliases=(keys.conversation(account, f"{phone}@c.us"),),
    )
    do(store.accept(new, token="mine"))
    do(Io(store.close, store.aclose))
    with server.client() as client:
        names = b" ".join(client.scan_iter(count=1000))

    assert phone.encode() not in names
    assert account.encode() not in names


# Work


def test_first_contacts_that_wait_for_a_cap_to_end_cost_nobody_time(
    server: RedisServer, do: Do
) -> None:
    """However many they are: a worker's script looks at none of them."""
    store = RedisEventStore(server.url)
    for number in range(60):
        committed(store, do, f"{number}", customer=f"{number}", replies=1)
    account = AccountKey(conversation("0")[:15])
    do(store.restrict(account, kind=FIRST_CONTACTS, seconds=60.0, why="a cap"))
    with server.client() as client:

        def calls() -> int:
            told: Any = client.info("commandstats")
            return sum(each["calls"] for each in told.values())

        do(store.acquire("replies", "warm"))
        before = calls()
        found = do(store.acquire("replies", "a"))
        took = calls() - before
        check_keys(client)
    do(Io(store.close, store.aclose))

    assert found is None
    assert took < SHARDS + 30


# Loops, threads and closing


def test_every_event_loop_has_its_own_connections(server: RedisServer) -> None:
    """A new loop per call, in several threads: none is left open, none is used by another loop."""
    store = RedisEventStore(server.url)

    async def work(name: str) -> None:
        await asyncio.gather(*(store.accept(event(f"{name}.{n}")).wait() for n in range(5)))

    def one_thread(name: str) -> None:
        for n in range(10):
            asyncio.run(work(f"{name}.{n}"))

    threads = [threading.Thread(target=one_thread, args=(str(n),)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    backlog = store.backlog().block()
    store.close()
    gc.collect()  # a connection that was not closed warns, and the warning fails this test

    assert backlog == Backlog(queued=150)
    until(lambda: _connected(server) == 1)


def _connected(server: RedisServer) -> int:
    """Connections that the server knows of, this one included; it hears of an end a bit late."""
    with server.client() as client:
        connected: Any = client.client_list()
    return len(connected)


async def test_a_closed_store_says_so(server: RedisServer) -> None:
    """In sync and async; closing closes every connection."""
    store = RedisEventStore(server.url)
    await store.backlog().wait()
    store.backlog().block()
    await store.aclose()

    with pytest.raises(ClosedError):
        await store.backlog().wait()
    with pytest.raises(ClosedError):
        store.backlog().block()
    until(lambda: _connected(server) == 1)


@pytest.mark.parametrize("decode", [False, True])
async def test_a_given_client_is_used_and_left_open(server: RedisServer, decode: bool) -> None:
    """However it is configured; it is its owner's to close."""
    client = redis.Redis.from_url(server.url, decode_responses=decode)
    async_client = redis.asyncio.Redis.from_url(server.url, decode_responses=decode)
    store = RedisEventStore(client=client, async_client=async_client)
    store.accept(event(payload="\ud83d")).block()
    acquired = await store.acquire("inbox", "mine").wait()
    await store.aclose()

    assert acquired is not None
    assert acquired.events[0].payload == "\ud83d"
    assert client.ping()
    assert await async_client.ping()
    client.close()
    await async_client.aclose()


# Starting


def test_an_unsafe_server_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """Loudly, at the first use, with what to do; however many stores a process has on it."""
    with RedisServer(aof=False, maxmemory_policy="allkeys-lru") as server:
        for _ in range(3):
            store = RedisEventStore(server.url)
            with caplog.at_level(logging.WARNING):
                store.backlog().block()
                store.backlog().block()
            store.close()

    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert all("can lose acknowledged events" in message for message in told)


def test_each_unsafe_server_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """What is known of one says nothing about another."""
    for _ in range(2):
        with RedisServer(aof=False) as server, caplog.at_level(logging.WARNING):
            store = RedisEventStore(server.url)
            store.backlog().block()
            store.close()

    assert len(caplog.records) == 2


def test_every_store_tells_the_risks_of_its_server() -> None:
    """Also those that the process has been warned of, since who asks wants to know."""
    with RedisServer(aof=False) as server:
        first, second = RedisEventStore(server.url), RedisEventStore(server.url)
        first.backlog().block()
        found = second.risks().block()
        first.close()
        second.close()

    assert [risk.remedy for risk in found] == ["set `appendonly yes`"]


def test_a_safe_server_is_not_warned_of(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A warning is worth reading."""
    store = RedisEventStore(server.url)
    with caplog.at_level(logging.INFO):
        store.backlog().block()
    store.close()

    assert caplog.records == []


def test_a_replica_refuses_with_the_reason(server: RedisServer, no_pause: None) -> None:
    """Nothing is accepted that the primary does not know."""
    with RedisServer(replicaof=f"127.0.0.1 {server.port}") as replica:
        store = RedisEventStore(replica.url)
        with pytest.raises(StoreUnavailableError, match="connect to the primary"):
            store.accept(event()).block()
        store.close()


def test_a_full_server_refuses_before_anything_is_written(no_pause: None) -> None:
    """Nothing is evicted, nothing half recorded."""
    with RedisServer(maxmemory="1") as server:
        store = RedisEventStore(server.url)
        with pytest.raises(StoreUnavailableError, match="maxmemory"):
            store.accept(event()).block()
        store.close()
        with server.client() as client:
            left = client.keys("*")

    assert left == []


def test_a_server_that_hangs_is_left_in_time_and_works_again(do: Do, no_pause: None) -> None:
    """The same connections serve again, and no answer meets another question."""
    with RedisServer() as server:
        store = RedisEventStore(f"{server.url}?socket_timeout=0.1")
        do(store.accept(event("1")))
        with server.standing_still(), pytest.raises(StoreUnavailableError) as error:
            do(store.accept(event("2")))
        again = do(store.accept(event("2")))
        backlog = do(store.backlog())
        do(Io(store.close, store.aclose))

    assert isinstance(error.value.__cause__, redis.TimeoutError)
    assert "not overloaded" in str(error.value)
    assert again.status in {"new", "duplicate"}  # it may have read the question when it woke up
    assert backlog.queued == 2


async def test_a_restart_under_load_fails_clearly_or_not_at_all(no_pause: None) -> None:
    """Whoever asks meanwhile, over whichever connection: nobody meets a half-closed one."""
    met: set[str] = set()
    with RedisServer() as server:
        store = RedisEventStore(f"{server.url}?socket_timeout=0.05")
        await store.keys().wait()
        restarted = asyncio.Event()

        async def ask(number: int) -> None:
            while not restarted.is_set():
                for _ in range(number % 7):  # in different batches
                    await asyncio.sleep(0)
                try:
                    await store.due("outbox", conversation()).wait()
                except Exception as error:  # noqa: BLE001 - which one is what is tested
                    met.add(type(error).__name__)

        asking = [asyncio.create_task(ask(number)) for number in range(100)]
        for _ in range(5):
            with server.standing_still():
                await asyncio.sleep(0.15)  # three callers' timeouts
            await asyncio.to_thread(server.restart)
        restarted.set()
        await asyncio.gather(*asking)
        await store.aclose()

    assert met <= {"StoreUnavailableError"}


def test_wrong_credentials_are_named_without_being_told(
    server: RedisServer, no_pause: None
) -> None:
    """No password reaches a log."""
    store = RedisEventStore(server.url.replace("//", "//nobody:hunter2@"))
    with pytest.raises(StoreUnavailableError, match="password in the URL") as error:
        store.backlog().block()
    store.close()

    assert "hunter2" not in str(error.value)
    assert "hunter2" not in repr(store)


def test_a_newer_format_is_refused(server: RedisServer, do: Do) -> None:
    """Before anything is read or written; the error says what to do."""
    with server.client() as client:
        client.hset("cs:meta", mapping={"key": "k", "format": "99"})
    store = RedisEventStore(server.url)
    with pytest.raises(StoreFormatError, match=r"format 99.*upgrade langchain-convsync"):
        do(store.accept(event()))
    do(Io(store.close, store.aclose))


@pytest.mark.parametrize(
    "fields",
    [
        {"key": b"k" * 32, "format": "one"},
        {"key": b"k" * 32, "format": "-1"},
        {"key": b"k" * 32, "format": "9" * 5000},
        {"key": b"", "format": "1"},
        {"key": b"k" * 32},
        {"format": "1"},
        "a string",
        ["a", "list"],
    ],
    ids=repr,
)
def test_what_names_the_store_has_to_be_readable(server: RedisServer, do: Do, fields: Any) -> None:
    """A new secret would give everything in it new names: it is told, and nothing is changed."""
    with server.client() as client:
        if isinstance(fields, dict):
            client.hset("cs:meta", mapping=fields)
        elif isinstance(fields, str):
            client.set("cs:meta", fields)
        else:
            client.rpush("cs:meta", *fields)
        before = client.dump("cs:meta")
    store = RedisEventStore(server.url)
    with pytest.raises(StoreFormatError, match=r"cs:meta in Redis cannot be read.*backup"):
        do(store.accept(event()))
    do(Io(store.close, store.aclose))
    with server.client() as client:
        assert client.dump("cs:meta") == before


def test_all_processes_share_one_secret(server: RedisServer, do: Do) -> None:
    """Whichever came first created it."""
    first, second = RedisEventStore(server.url), RedisEventStore(server.url)
    keys = do(first.keys())

    assert do(second.keys()) == keys
    assert keys != KEYS
    for store in (first, second):
        do(Io(store.close, store.aclose))


def test_a_unix_socket_serves_too(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Redis beside the agent needs no port."""
    path = tmp_path_factory.mktemp("s") / "redis.sock"
    with RedisServer(unixsocket=str(path)):
        store = RedisEventStore(f"unix://{path}")
        status = store.accept(event()).block().status
        store.close()

    assert status == "new"
