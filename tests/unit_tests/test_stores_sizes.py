"""What a finished turn keeps for a week, when its words are gone: little enough for millions."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from langchain_convsync.stores import EventStore, RedisEventStore, SQLiteEventStore
from langchain_convsync.stores.base import Commit
from tests.redis_server import RedisServer
from tests.store_cases import KEYS, Clock, blocking, commit_of, committed, event, turn_of

pytest_plugins = ("tests.store_fixtures",)

TURNS = 400


def finish(store: EventStore, turns: int) -> None:
    """So many turns, as a runner commits them; their words are not kept."""
    for number in range(turns):
        source = KEYS.source("message", f"{number}")
        new = replace(event(f"{number}"), source=source, digest=f"t={number:016x}")
        acquired = turn_of(store, blocking, new, f"{number:032x}")
        key = acquired.events[0].event_key
        commit = Commit(event_keys=[key], outcomes={key: "words"}, fact=f"answered {key}")
        assert store.commit_turn(acquired.lease, commit).block() == "done"


def test_redis_keeps_at_most_400_bytes_of_a_finished_turn(server: RedisServer) -> None:
    """Of a hash with more or longer values it would keep twice as much."""
    store = RedisEventStore(server.url, replies_kept=0)
    finish(store, TURNS)
    store.close()
    with server.client() as client:
        kept = [key for key in client.scan_iter() if b":ev:" in key or b":twins:" in key]
        total = sum(client.memory_usage(key, samples=0) for key in kept)

    assert len(kept) == 2 * TURNS
    assert total / TURNS <= 400


def test_sqlite_keeps_at_most_500_bytes_of_a_finished_turn(tmp_path: Path) -> None:
    """Its indexes included."""
    path = tmp_path / "events.db"
    store = SQLiteEventStore(path, replies_kept=0)
    store.keys().block()
    before = _size(path)
    finish(store, TURNS)
    after = _size(path)
    store.close()

    assert 0 < (after - before) / TURNS <= 500


def _size(path: Path) -> int:
    with closing(sqlite3.connect(path)) as sql:
        pages: int = sql.execute("PRAGMA page_count").fetchone()[0]
        size: int = sql.execute("PRAGMA page_size").fetchone()[0]
    return pages * size


@pytest.mark.parametrize(
    "fact", ["", "answered {key}", "said \x01 of {key}", "x" * 300, "answered 00.000000000000.1"]
)
def test_what_is_packed_comes_back_as_it_was(store: EventStore, fact: str) -> None:
    """A repeated delivery is told the fact, whatever is in it."""
    acquired = turn_of(store, blocking, event("1"))
    key = acquired.events[0].event_key
    told = fact.format(key=key)
    commit = Commit(event_keys=[key], outcomes={}, fact=told)
    assert store.commit_turn(acquired.lease, commit).block() == "done"
    assert store.commit_turn(acquired.lease, commit).block() == "done"

    again = store.accept(event("1")).block()

    assert (again.status, again.state, again.outcome) == ("duplicate", "done", told)
    assert again.conversation_key == acquired.lease.conversation_key
    assert not again.differs
    assert store.accept(event("1", digest="adiós")).block().differs
    assert store.accept(event("1"), token="turn").block().status == "new"


def test_what_is_finished_adds_nothing_to_what_is_done_next(tmp_path: Path) -> None:
    """SQLite runs as many instructions for a turn, and for a look at all work, as when empty."""
    clock = Clock()
    store = SQLiteEventStore(tmp_path / "events.db", clock=clock, replies_kept=0)
    empty = [_instructions(store, what, "first") for what in WORK]
    for number in range(TURNS):
        committed(store, blocking, f"{number}", writes=0, customer=f"customer {number}")

    full = [_instructions(store, what, "last") for what in WORK]
    store.close()

    assert dict(zip(WORK, full, strict=True)) == pytest.approx(
        dict(zip(WORK, empty, strict=True)), rel=0.1
    )


def _answer(store: SQLiteEventStore, who: str) -> None:
    acquired = store.acquire("inbox", who).block()
    assert acquired is not None
    assert store.commit_turn(acquired.lease, commit_of(acquired)).block() == "done"


#: What is done for each message, and what `convsync status` and idle workers look at.
WORK: dict[str, Callable[[SQLiteEventStore, str], object]] = {
    "accept": lambda store, who: store.accept(event(who, customer=who)).block(),
    "look": lambda store, _: store.upcoming().block(),
    "backlog": lambda store, _: store.backlog().block(),
    "loads": lambda store, _: store.loads().block(),
    "dead letters": lambda store, _: store.dead_letters().block(),
    "turn": _answer,
    "idle": lambda store, who: store.acquire("inbox", who).block(),
}


def _instructions(store: SQLiteEventStore, what: str, who: str) -> int:
    """How many SQLite's virtual machine runs: the same ones for the same work, however busy."""
    ran = [0]

    def count() -> None:
        ran[0] += 1

    store.keys().block()
    assert store._sql is not None
    store._sql.set_progress_handler(count, 1)
    WORK[what](store, who)
    store._sql.set_progress_handler(None, 1)
    return ran[0]
