"""Erasing one conversation where it takes several steps: on a cluster, and over a bad wire."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from langchain_convsync._flow import Io
from langchain_convsync.errors import StoreUnavailableError
from langchain_convsync.stores import Backlog, EventStore, RedisEventStore
from tests.dropping_proxy import DroppingProxy
from tests.redis_server import RedisServer
from tests.redis_topologies import RedisCluster
from tests.store_cases import Do, commit_of, committed, conversation, event, turn_of
from tests.store_checks import check_keys

pytest_plugins = ("tests.store_fixtures",)

#: Accounts enough to lie on all nodes.
ACCOUNTS = [f"account {number}" for number in range(12)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    with RedisCluster() as running:
        running.settle()
        running.empty()
        yield running


def test_on_a_cluster_all_shards_are_listed_and_one_conversation_is_erased(
    cluster: RedisCluster, do: Do
) -> None:
    """Whichever node has it; the others keep theirs."""
    cluster.empty()
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


@pytest.mark.parametrize("drops", [1, 2])
def test_an_erasure_goes_on_after_lost_answers(
    server: RedisServer, do: Do, no_pause: None, drops: int
) -> None:
    """Each of its steps may be repeated."""
    proxy = DroppingProxy(server.port)
    store = RedisEventStore(proxy.url)
    fill(store, do)
    proxy.drops = drops
    do(store.forget(conversation()))
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
