"""The store behind sentinels and on a cluster: a primary dies under load, and work goes on."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import pytest
from redis.crc import key_slot

from langchain_convsync._flow import Io, run
from langchain_convsync.errors import StoreUnavailableError
from langchain_convsync.stores import (
    Backlog,
    NewEvent,
    RedisEventStore,
    SQLiteEventStore,
    open_store,
)
from langchain_convsync.stores.base import EventStore
from langchain_convsync.stores.checks import shard_of
from tests.redis_acl import PASSWORD, permit
from tests.redis_topologies import SLOTS, RedisCluster, WatchedRedis, until
from tests.store_cases import CALLS, Clock, Do, commit_of, conversation, event, ready

pytest_plugins = ("tests.store_fixtures",)

#: Accounts enough to lie on all nodes.
ACCOUNTS = [f"account {number}" for number in range(24)]


class Load:
    """Threads that offer events all the time, each until it is acknowledged."""

    def __init__(self, store: EventStore) -> None:
        self.acknowledged: list[NewEvent] = []
        self.failures = 0
        self._store = store
        self._ending = threading.Event()
        self._pool = ThreadPoolExecutor(4)
        self._jobs = [self._pool.submit(self._offer, worker) for worker in range(4)]

    def _offer(self, worker: int) -> None:
        number = 0
        while not self._ending.is_set():
            number += 1
            account = ACCOUNTS[number % len(ACCOUNTS)]
            new = event(f"{worker}/{number}", customer=f"{number}", account=account)
            while not self._accepted(new) and not self._ending.is_set():
                pass

    def _accepted(self, new: NewEvent) -> bool:
        try:
            run(self._store.accept(new))
        except StoreUnavailableError:
            self.failures += 1
            return False
        self.acknowledged.append(new)
        return True

    def end(self) -> None:
        """Stop offering; what went wrong besides is raised here."""
        self._ending.set()
        self._pool.shutdown()
        for job in self._jobs:
            job.result()

    def grows(self, by: int = 200) -> None:
        """Wait until so many more are acknowledged."""
        wanted = len(self.acknowledged) + by
        until(lambda: len(self.acknowledged) >= wanted)


def missing(store: EventStore, load: Load) -> int:
    """How many acknowledged events the store does not know any more."""
    gone = 0

    def asked(new: NewEvent) -> bool:
        nonlocal gone
        with suppress(StoreUnavailableError):  # the replicas may still be finding their primary
            gone += run(store.accept(new)).status == "new"
            return True
        return False

    for new in load.acknowledged:
        until(partial(asked, new))
    return gone


@pytest.mark.slow  # servers by the half dozen
def test_the_sentinels_new_primary_is_found_under_load() -> None:
    """With ``wait_replicas=1`` nothing that was acknowledged is missing."""
    with WatchedRedis() as redis:
        store = RedisEventStore(redis.url, wait_replicas=1)
        load = Load(store)
        load.grows()
        redis.primary.kill9()
        until(lambda: load.failures > 0)
        load.grows()
        load.end()

        assert missing(store, load) == 0
        # Each is there once, and some whose acknowledgement was lost.
        assert run(store.backlog()).queued >= len(load.acknowledged)
        store.close()


@pytest.mark.slow  # servers by the half dozen
def test_a_node_of_a_cluster_dies_under_load_and_comes_back(cluster: RedisCluster) -> None:
    """Its append-only file has everything; meanwhile the other nodes' accounts go on."""
    store = open_store(cluster.url)
    load = Load(store)
    load.grows()
    cluster.nodes[0].kill9()
    until(lambda: load.failures > 0)
    served = {account for account in ACCOUNTS if accepts(store, account)}
    cluster.nodes[0].start()
    load.grows()
    load.end()
    gone = missing(store, load)
    store.close()

    assert gone == 0
    assert served == {account for account in ACCOUNTS if not lies_on_the_first_node(account)}
    assert 0 < len(served) < len(ACCOUNTS)


def lies_on_the_first_node(account: str) -> bool:
    """Of three, which share the slots."""
    return key_slot(b"{s%02d}" % shard_of(conversation("ana", account))) < SLOTS // 3


def accepts(store: EventStore, account: str) -> bool:
    """Whether an account's events are accepted now."""
    try:
        run(store.accept(event("while a node is away", account=account)))
    except StoreUnavailableError:
        return False
    return True


@pytest.mark.parametrize("name", CALLS)
def test_every_operation_answers_on_a_cluster_as_anywhere(
    cluster: RedisCluster, do: Do, clock: Clock, name: str
) -> None:
    """Whichever node it goes to."""
    answers = []
    for store in (
        RedisEventStore(cluster.url, clock=clock),
        SQLiteEventStore(":memory:", clock=clock),
    ):
        answers.append(do(CALLS[name](store, ready(store))))
        do(Io(store.close, store.aclose))

    assert answers[0] == answers[1]


def test_dead_letters_of_every_node_are_told_page_by_page(cluster: RedisCluster, do: Do) -> None:
    """Each once, however few a page holds."""
    store = RedisEventStore(cluster.url)
    for account in ACCOUNTS:
        acquired = do(store.accept(event(account=account), token=account)).acquired
        do(store.commit_turn(acquired.lease, commit_of(acquired, dead=True)))
    told: list[str] = []
    page: str | None = ""
    while page is not None:
        found = do(store.dead_letter_page(page, most=1))
        told, page = [*told, *(one.id for one in found.letters)], found.next
    do(Io(store.close, store.aclose))

    assert sorted(told) == sorted(event(account=account).event_key for account in ACCOUNTS)


def test_work_on_every_node_is_found_and_counted(cluster: RedisCluster, do: Do) -> None:
    """No script can look at two shards, so all of them are asked."""
    store = RedisEventStore(cluster.url)
    for account in ACCOUNTS:
        do(store.accept(event(account=account)))
    before = do(store.backlog())
    done = []
    for number, _ in enumerate(ACCOUNTS):
        acquired = do(store.acquire("inbox", f"token {number}"))
        done.append(do(store.commit_turn(acquired.lease, commit_of(acquired, writes=1))))
    after = do(store.backlog())
    nothing = do(store.acquire("inbox", "last"))
    do(Io(store.close, store.aclose))

    assert (before, after) == (Backlog(queued=len(ACCOUNTS)), Backlog(writes=len(ACCOUNTS)))
    assert done == ["done"] * len(ACCOUNTS)
    assert nothing is None


def test_the_documented_permissions_suffice_on_a_cluster(cluster: RedisCluster, do: Do) -> None:
    """With the two commands more by which the nodes are found."""
    for node in cluster.nodes:
        permit(node, "agent", "+command", "+cluster|slots")
    store = RedisEventStore(cluster.url.replace("//", f"//agent:{PASSWORD}@"))
    for account in ACCOUNTS:
        do(store.accept(event(account=account)))
    backlog = do(store.backlog())
    do(Io(store.close, store.aclose))

    assert backlog == Backlog(queued=len(ACCOUNTS))
