"""Erasing one conversation where it takes several steps: on a cluster, and over a bad wire."""

from __future__ import annotations

import multiprocessing
import sqlite3
from contextlib import closing
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from langchain_convsync._flow import Io
from langchain_convsync.errors import StoreUnavailableError
from langchain_convsync.stores import Backlog, EventStore, RedisEventStore, SQLiteEventStore
from tests.canary import CANARY
from tests.dropping_proxy import DroppingProxy
from tests.redis_server import RedisServer
from tests.redis_topologies import RedisCluster
from tests.store_cases import Do, commit_of, committed, conversation, event, turn_of
from tests.store_checks import check_keys

pytest_plugins = ("tests.store_fixtures",)

#: Accounts enough to lie on all nodes.
ACCOUNTS = [f"account {number}" for number in range(12)]


def test_on_a_cluster_all_shards_are_listed_and_one_conversation_is_erased(
    cluster: RedisCluster, do: Do
) -> None:
    """Whichever node has it; the others keep theirs."""
    store = RedisEventStore(cluster.url)
    for account in ACCOUNTS:
        acquired = turn_of(store, do, event(account=account), token=account)
        do(store.commit_turn(acquired.lease, commit_of(acquired, dead=True)))
        done = turn_of(store, do, event("2", account=account, alias="lid"), token=f"{account} 2")
        do(store.commit_turn(done.lease, commit_of(done)))
    listed, some = do(store.dead_letters()), do(store.dead_letters(most=5))
    for account in ACCOUNTS[::2]:
        do(store.forget(conversation(account=account)))
    left = do(store.dead_letters())
    again = [do(store.accept(event("2", account=account))).status for account in ACCOUNTS]
    do(Io(store.close, store.aclose))

    assert {one.conversation_key for one in listed} == {
        conversation(account=account) for account in ACCOUNTS
    }
    assert [one.since for one in listed] == sorted(one.since for one in listed)
    assert some == listed[:5]
    assert {one.conversation_key for one in left} == {
        conversation(account=a) for a in ACCOUNTS[1::2]
    }
    assert again == ["new", "duplicate"] * (len(ACCOUNTS) // 2)


def fill(store: EventStore, do: Do) -> None:
    """Two conversations with something done and something to do; one is linked to the other."""
    committed(store, do, "1", writes=2)
    do(store.accept(event("2", alias="lid")))
    do(store.accept(event("3", customer="eva")))


@pytest.mark.parametrize("has_done", [True, False])
@pytest.mark.parametrize("drops", [1, 2])
def test_an_erasure_goes_on_after_lost_answers(
    server: RedisServer, do: Do, no_pause: None, drops: int, *, has_done: bool
) -> None:
    """Each of its steps may be repeated, and it is told that there was something."""
    proxy = DroppingProxy(server.port)
    store = RedisEventStore(proxy.url)
    if has_done:
        fill(store, do)
    else:  # nothing that a second look would find
        do(store.accept(event("2")))
        do(store.accept(event("3", customer="eva")))
    proxy.drops = drops
    assert do(store.forget(conversation()))
    left = do(store.backlog())
    do(Io(store.close, store.aclose))
    proxy.close()

    assert (proxy.drops, left) == (0, Backlog(queued=1))
    with server.client() as client:
        check_keys(client)
        kept = {client.hget(key, "conversation").decode() for key in client.keys("cs:*:ev:*")}
    assert kept == {conversation("eva")}


def test_an_erasure_that_failed_is_finished_by_the_next_call(
    server: RedisServer, do: Do, no_pause: None
) -> None:
    """The first step took what could be worked on; what was done is found by the next call."""
    proxy = DroppingProxy(server.port)
    store = RedisEventStore(proxy.url)
    fill(store, do)
    proxy.drops = 3
    with pytest.raises(StoreUnavailableError):
        do(store.forget(conversation("lid")))
    do(store.forget(conversation("lid")))
    do(store.forget(conversation()))
    again = do(store.accept(event("1"))).status
    do(Io(store.close, store.aclose))
    proxy.close()

    assert again == "new"


@pytest.mark.parametrize("known", [True, False])
def test_it_is_told_whether_anything_was_kept(store: EventStore, do: Do, *, known: bool) -> None:
    """Of what is done, waits, died or was paused; and once only."""
    if known:
        fill(store, do)
    do(store.pause(conversation("leo"), seconds=60.0))

    told = [do(store.forget(conversation(name))) for name in ("lid", "ana", "eva", "leo", "leo")]

    assert told == [known, False, known, True, False]


def spoken_canaries(store: EventStore, do: Do) -> None:
    """Words in everything that a conversation keeps: waiting, done, dead, noted, and of others."""
    for number in range(20):
        for customer, words in (("ana", CANARY), ("eva", "else")):
            name = f"{customer} {number}"
            new = event(name, customer=customer, payload=f'"{words * number}"')
            acquired = turn_of(store, do, new, token=name)
            commit = commit_of(
                acquired,
                outcomes={new.event_key: words * 5},
                snapshot=words * 100,
                snapshot_ttl=60.0,
                dead=number % 3 == 0,
            )
            do(store.commit_turn(acquired.lease, commit))
    do(store.accept(event("last", payload=CANARY * 300)))


def held_open(path: Path, is_open: Event, ends: Event) -> None:
    """Another process that works on the file."""
    store = SQLiteEventStore(path)
    store.accept(event("other", customer="leo")).block()
    is_open.set()
    ends.wait()
    store.close()


def bytes_of(path: Path) -> dict[str, int]:
    """How often the canary stands in each file of a store."""
    return {file.suffix: file.read_bytes().count(CANARY.encode()) for file in path.parent.iterdir()}


def test_no_byte_of_a_forgotten_conversation_is_left_in_a_file(tmp_path: Path, do: Do) -> None:
    """Nor in its log, while another process has both open."""
    path, context = tmp_path / "events.db", multiprocessing.get_context("spawn")
    store, is_open, ends = SQLiteEventStore(path), context.Event(), context.Event()
    spoken_canaries(store, do)
    other = context.Process(target=held_open, args=(path, is_open, ends))
    other.start()
    is_open.wait()
    before = bytes_of(path)

    assert do(store.forget(conversation()))

    after = bytes_of(path)
    ends.set()
    other.join()
    left = do(store.acquire("inbox", "worker"))
    do(Io(store.close, store.aclose))
    assert sum(before.values()) > 0
    assert after == {".db": 0, ".db-wal": 0, ".db-shm": 0}
    assert left.lease.conversation_key == conversation("leo")


def test_who_forgets_is_told_what_a_reader_keeps_in_the_log(
    tmp_path: Path, do: Do, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is erased for every worker; the same call again overwrites the rest."""
    monkeypatch.setattr("langchain_convsync.stores.sqlite.LOG_PAUSES", (0.0, 0.0))
    path = tmp_path / "events.db"
    store = SQLiteEventStore(path)
    spoken_canaries(store, do)
    with closing(sqlite3.connect(path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM events").fetchone()
        with pytest.raises(StoreUnavailableError, match=r"events\.db-wal holds it until"):
            do(store.forget(conversation()))
        gone = do(store.view(conversation())).turns
    known = do(store.forget(conversation()))
    left = bytes_of(path)
    do(Io(store.close, store.aclose))

    assert (gone, known, sum(left.values())) == (0, False, 0)
