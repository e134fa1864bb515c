"""Whatever stands in a store: the conversation that it belongs to ends, and no other one waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from langchain_convsync.errors import StoreUnavailableError
from langchain_convsync.stores import (
    EventStore,
    Lease,
    RedisEventStore,
    SQLiteEventStore,
)
from tests.redis_server import RedisServer
from tests.store_cases import (
    CALLS,
    Clock,
    Do,
    blocking,
    commit_of,
    committed,
    conversation,
    event,
    queue_of,
    ready,
)
from tests.store_checks import check_keys

pytest_plugins = ("tests.store_fixtures",)

SHARD = f"cs:{{s{conversation()[:2]}}}:"
RECORD, EVENT = f"{SHARD}c:{conversation()}", f"{SHARD}ev:{event('1').event_key}"
Damage = Callable[[Any], Any]

#: What an eviction, another program or a restored file may do to one conversation.
DAMAGES: dict[str, Damage] = {
    "event gone": lambda redis: redis.delete(EVENT),
    "event of another type": lambda redis: (redis.delete(EVENT), redis.set(EVENT, "foreign")),
    "event without payload": lambda redis: redis.hdel(EVENT, "payload"),
    "event without state": lambda redis: redis.hdel(EVENT, "state"),
    "words for the event's numbers": lambda redis: redis.hset(
        EVENT, mapping={"at": "nan", "starts": "none", "errors": "1e999"}
    ),
    "bytes that are no text": lambda redis: redis.hset(EVENT, "payload", b"\xff\xfe{"),
    "conversation gone": lambda redis: redis.delete(RECORD),
    "conversation of another type": lambda redis: (redis.delete(RECORD), redis.set(RECORD, "x")),
    "words for the conversation's numbers": lambda redis: redis.hset(
        RECORD, mapping=dict.fromkeys(("turns", "debounce", "max_debounce", "inbox.epoch"), "x")
    ),
    "a lease that ends in words": lambda redis: redis.hset(RECORD, "inbox.until", "soon"),
    "alias of another type": lambda redis: redis.rpush(f"{SHARD}alias:{conversation()}", "x"),
    "pause of another type": lambda redis: redis.rpush(f"{SHARD}pause:{conversation()}", "x"),
    "words for a pause": lambda redis: redis.set(f"{SHARD}pause:{conversation()}", "x"),
    "an alias that leads nowhere": lambda redis: redis.set(f"{SHARD}alias:{conversation()}", "x"),
    "an alias that leads to itself": lambda redis: redis.set(
        f"{SHARD}alias:{conversation()}", conversation()
    ),
    "outbox of another type": lambda redis: redis.set(f"{RECORD}:outbox", "x"),
    "replies of another type": lambda redis: redis.set(f"{RECORD}:replies", "x"),
}


def others_turns(store: EventStore, do: Do) -> set[str]:
    """Whose inboxes are found to work on; each is answered."""
    found: set[str] = set()
    for number in range(9):
        if (acquired := do(store.acquire("inbox", f"worker {number}"))) is None:
            return found
        found.add(acquired.lease.conversation_key)
        commit = commit_of(acquired, dead=True, writes=1, replies=1)
        assert do(store.commit_turn(acquired.lease, commit)) == "done"
    raise AssertionError


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_no_other_conversation_waits_for_a_damaged_one(
    server: RedisServer, do: Do, clock: Clock, damage: Damage
) -> None:
    """Not one of the same account, nor of another; and the damaged one is worked on."""
    store = RedisEventStore(server.url, clock=clock)
    for source, customer, account in (
        ("1", "ana", "ventas"),
        ("2", "eva", "ventas"),
        ("3", "leo", "soporte"),
    ):
        do(store.accept(event(source, customer=customer, account=account)))
    with server.client() as redis:
        damage(redis)

    found = others_turns(store, do)

    assert found == {conversation(), conversation("eva"), conversation("leo", "soporte")}
    letters = do(store.dead_letters())
    assert {one.id for one in letters} == {
        event("1").event_key,
        event("2", customer="eva").event_key,
        event("3", customer="leo", account="soporte").event_key,
    }
    assert do(store.accept(event("1"))).status == "duplicate"
    do(store.forget(conversation()))
    with server.client() as redis:
        check_keys(redis)
    store.close()


@pytest.mark.parametrize("names", [("eva", "ana"), ("ana", "eva")], ids=["its alias", "itself"])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_customer_is_known_by_a_damaged_name_too(
    server: RedisServer, do: Do, clock: Clock, damage: Damage, names: tuple[str, str]
) -> None:
    """Whichever of their names it is, the message is recorded, and lies in one conversation."""
    store = RedisEventStore(server.url, clock=clock)
    do(store.accept(event("1")))
    with server.client() as redis:
        damage(redis)

    accepted = do(store.accept(event("2", customer=names[0], alias=names[1])))

    assert accepted.status == "new"
    assert len({do(store.view(conversation(name))).conversation_key for name in names}) == 1
    store.close()


@pytest.mark.in_turn
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_every_operation_ends_on_a_damaged_conversation(
    server: RedisServer, damage: Damage, name: str
) -> None:
    """None raises, whatever it answers; and the conversation can be worked on afterwards."""
    store = RedisEventStore(server.url)
    has = ready(store)
    with server.client() as redis:
        redis.rename(f"{SHARD}ev:{event('2').event_key}", EVENT)
        redis.delete(f"{RECORD}:inbox")
        redis.rpush(f"{RECORD}:inbox", event("1").event_key)
        damage(redis)

    CALLS[name](store, has).block()

    store.view(conversation()).block()
    store.release(has[1].lease).block()
    store.accept(event("9"), token="mine").block()
    assert store.dead_letters().block() is not None
    store.close()


def test_a_write_of_which_no_one_knows_how_far_it_came_is_a_dead_letter(
    server: RedisServer, do: Do, clock: Clock
) -> None:
    """To send it again might double it; the queue goes on behind its turn."""
    store = RedisEventStore(server.url, clock=clock)
    committed(store, do, "1", writes=2)
    committed(store, do, "2", writes=1)
    lease: Lease = queue_of(store, do).lease
    do(store.begin(lease, f"{event('1').event_key}/0", 0, attempt=1, need=6.0))
    with server.client() as redis:
        redis.hset(RECORD, "outbox.pos", "far")
    clock.advance(60.0)

    acquired = queue_of(store, do, token="next")

    assert [one.id for one in acquired.operations] == [f"{event('2').event_key}/0"]
    letters = do(store.dead_letters())
    assert [one.reason for one in letters] == ["how far it was delivered cannot be read"] * 2
    store.close()
    with server.client() as redis:
        check_keys(redis)


def test_a_ring_that_names_what_is_gone_holds_up_nobody(server: RedisServer, do: Do) -> None:
    """The list of an inbox, and the index of an account's work."""
    store = RedisEventStore(server.url)
    for source, customer, account in (("1", "ana", "ventas"), ("2", "leo", "soporte")):
        do(store.accept(event(source, customer=customer, account=account)))
    with server.client() as redis:
        redis.delete(f"{RECORD}:inbox")
    first = do(store.acquire("inbox", "a"))
    with server.client() as redis:
        redis.delete(f"{SHARD}ready:inbox:{conversation()[:15]}")
    again = do(store.accept(event("1"), token="b"))
    store.close()

    assert first.lease.conversation_key == conversation("leo", "soporte")
    assert again.acquired is not None  # its list was lost, its event was not


@pytest.mark.parametrize(
    "kind",
    ["accounts:inbox", "places:inbox", "count", "dead", "dead_operations"]
    + [f"{name}{conversation()[:15]}" for name in ("ready:inbox:", "running:")],
)
def test_a_damaged_index_of_one_shard_holds_up_no_other(
    server: RedisServer, do: Do, kind: str
) -> None:
    """A worker without other work says what is wrong; the account goes on with its next event."""
    store = RedisEventStore(server.url)
    for source, account in (("1", "ventas"), ("2", "soporte")):
        do(store.accept(event(source, account=account)))
    with server.client() as redis:
        redis.delete(f"{SHARD}{kind}")
        redis.set(f"{SHARD}{kind}", "foreign")

    found = [do(store.acquire("inbox", "a", account_concurrency=5))]
    with suppress(StoreUnavailableError):
        found += [do(store.acquire("inbox", "b", account_concurrency=5))]
    told = [do(store.backlog()), do(store.loads()), do(store.dead_letters())]
    after = do(store.accept(event("3"), token="c")).acquired

    assert conversation(account="soporte") in {
        one.lease.conversation_key for one in found if one is not None
    }
    assert all(each is not None for each in told)
    assert after is not None or conversation() in {
        one.lease.conversation_key for one in found if one is not None
    }
    store.close()


SQLITE_DAMAGES = {
    "no payload": "UPDATE events SET payload = NULL",
    "bytes that are no text": "UPDATE events SET payload = X'FFFE7B'",
    "negative numbers": "UPDATE events SET starts = -5, errors = -5",
    "no events": "DELETE FROM events",
}


def test_a_name_that_leads_in_a_circle_leads_nowhere(tmp_path: Path, do: Do) -> None:
    """Nothing waits for its end."""
    store = SQLiteEventStore(tmp_path / "events.db")
    do(store.alias(conversation("lid"), conversation()))
    assert store._sql is not None
    store._sql.execute("UPDATE aliases SET conversation = alias")

    accepted = do(store.accept(event("1", customer="lid")))
    seen = do(store.view(conversation("lid")))
    store.close()

    assert accepted.conversation_key == seen.conversation_key == conversation("lid")


@pytest.mark.parametrize("damage", SQLITE_DAMAGES.values(), ids=SQLITE_DAMAGES)
def test_no_other_row_waits_for_a_damaged_one(tmp_path: Path, do: Do, damage: str) -> None:
    """The same in SQLite."""
    store = SQLiteEventStore(tmp_path / "events.db")
    do(store.accept(event("1")))
    do(store.accept(event("2", customer="leo", account="soporte")))
    assert store._sql is not None
    store._sql.execute(f"{damage} WHERE event_key = ?", (event("1").event_key,))

    found = others_turns(store, do) | others_turns(store, do)

    assert conversation("leo", "soporte") in found
    assert do(store.view(conversation())) is not None
    assert do(store.amend(event("1").event_key, "", "{}")) is None
    store.close()


def test_one_operation_that_fails_costs_the_others_of_its_commit_nothing(tmp_path: Path) -> None:
    """Those that are awaited together share a transaction."""
    store = SQLiteEventStore(tmp_path / "events.db")

    def fails(_: Any) -> None:
        raise LookupError

    async def together() -> list[Any]:
        waiting = [store.accept(event("1")).wait(), store._step(fails).wait()]
        return await asyncio.gather(*waiting, return_exceptions=True)

    accepted, failure = asyncio.run(together())
    again = blocking(store.accept(event("1")))
    store.close()

    assert (accepted.status, type(failure), again.status) == ("new", LookupError, "duplicate")
