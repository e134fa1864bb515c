"""The rows of SQLite agree with each other: what is due, who is in the ring, what expires."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from langchain_convsync._flow import Io
from langchain_convsync.stores import Confirmed, EventStore, SQLiteEventStore
from tests.store_cases import (
    CALLS,
    Clock,
    blocking,
    commit_of,
    conversation,
    event,
    queue_of,
    ready,
    turn_of,
)
from tests.store_checks import check_rows

pytest_plugins = ("tests.store_fixtures",)


def rows_of(store: SQLiteEventStore, table: str = "queues") -> list[Any]:
    """A table, of rows that agree."""
    assert store._sql is not None
    check_rows(store._sql)
    return store._sql.execute(f"SELECT * FROM {table}").fetchall()


def test_an_account_is_in_the_ring_while_one_of_its_queues_is_due(clock: Clock) -> None:
    """Not longer; and it is found again when it has work again."""
    store = SQLiteEventStore(":memory:", clock=clock)
    found: list[str] = []

    def answer_next(token: str) -> list[str]:
        """The accounts that are in the ring after the next turn."""
        acquired = store.acquire("inbox", token).block()
        assert acquired is not None
        found.append(acquired.events[0].payload)
        store.commit_turn(acquired.lease, commit_of(acquired)).block()
        return [row["queue"] for row in rows_of(store, "accounts")]

    store.accept(event("1", customer="ana", payload="ana")).block()
    store.accept(event("2", customer="eva", payload="eva")).block()
    ring = [answer_next("a"), answer_next("b")]
    store.accept(event("3", customer="ana", payload="ana again")).block()
    ring.append(answer_next("c"))
    store.close()

    assert sorted(found[:2]) == ["ana", "eva"]
    assert found[2:] == ["ana again"]
    assert ring == [["inbox"], [], []]


def forget(store: EventStore, _: Any) -> Io[bool]:
    return store.forget(conversation())


@pytest.mark.parametrize("call", [*CALLS.values(), forget], ids=[*CALLS, "forget"])
def test_rows_agree_with_each_other_after_every_call(
    call: Callable[[EventStore, Any], Io[Any]],
) -> None:
    """Each writes all that follows from what it changes."""
    store = SQLiteEventStore(":memory:")
    call(store, ready(store)).block()
    rows_of(store)
    store.close()


def test_a_conversation_expires_while_it_is_idle_and_only_then(clock: Clock) -> None:
    """Whatever was the last of its work, and whether it gets some again."""
    store = SQLiteEventStore(":memory:", clock=clock)

    def expires() -> bool:
        (talk,) = rows_of(store, "conversations")
        return talk["expires"] is not None

    seen: dict[str, list[bool]] = {}
    for source, writes, replies in (("1", 0, 0), ("2", 1, 0), ("3", 1, 1)):
        acquired = turn_of(store, blocking, event(source), token=source)
        seen[source] = [expires()]
        store.commit_turn(
            acquired.lease, commit_of(acquired, writes=writes, replies=replies)
        ).block()
        seen[source].append(expires())
        if writes:
            write = queue_of(store, blocking, "outbox", f"write {source}")
            done = Confirmed(operation_id=write.operations[0].id, pos=0, last=True)
            store.release(write.lease, done=done).block()
            seen[source].append(expires())
        if replies:
            say = queue_of(store, blocking, "replies", f"say {source}")
            store.set_dead(say.lease, say.operations[0].id, reason="test").block()
            seen[source].append(expires())
    store.close()

    assert seen == {
        "1": [False, True],
        "2": [False, False, True],
        "3": [False, False, False, True],
    }
