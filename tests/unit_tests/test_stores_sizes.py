"""What a finished turn keeps for a week, when its words are gone: little enough for millions."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from redis import Redis

from langchain_convsync.stores import EventStore, RedisEventStore, SQLiteEventStore
from langchain_convsync.stores.base import SHARDS, Commit
from tests.redis_server import RedisServer
from tests.store_cases import (
    KEYS,
    Clock,
    blocking,
    commit_of,
    committed,
    conversation,
    event,
    turn_of,
)

pytest_plugins = ("tests.store_fixtures",)

TURNS = 400
#: What WhatsApp's messages tell of both sides.
FACTS = KEYS.facts({"n": "+5111111111", "p": "+51999999999", "s": "default", "t": "Hola"})


def finish(store: EventStore, turns: int) -> None:
    """So many turns, as a runner commits them; their words are not kept."""
    for number in range(turns):
        source = KEYS.source("message", f"{number}")
        digest = f"t={number:016x}"
        new = replace(event(f"{number}"), source=source, digest=digest, facts=FACTS)
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


@pytest.mark.parametrize("facts", [FACTS, "n=1", f"{FACTS} x=1"])
def test_what_was_told_of_both_sides_is_known_of_what_is_done(
    store: EventStore, facts: str
) -> None:
    """By that another delivery of its message is told from one of another message."""
    source, account = KEYS.source("message", "1"), KEYS.account("ventas")
    acquired = turn_of(store, blocking, replace(event("1"), source=source, facts=facts))
    assert store.commit_turn(acquired.lease, commit_of(acquired)).block() == "done"
    other = replace(event("2", customer="lid"), source=source, facts=f"{facts} z=3")

    assert store.find(account, source, facts).block() == event("1").event_key
    assert store.find(account, source, "n=2222222222222222").block() is None
    assert store.accept(other).block().status == "duplicate"
    assert store.find(account, source, f"{facts} z=3").block() == event("1").event_key
    assert store.find(account, source, "z=4").block() is None


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


def test_forgetting_holds_up_no_other_by_what_others_have_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as the file is taken for writing, SQLite runs as much as if there were little."""
    monkeypatch.setattr("langchain_convsync.stores.sqlite.operators.LOOKED_THROUGH", 7)
    few = _instructions_while_writing(tmp_path / "few.db", others=5)
    many = _instructions_while_writing(tmp_path / "many.db", others=TURNS)

    assert many == pytest.approx(few, rel=0.1)


def _instructions_while_writing(path: Path, *, others: int) -> int:
    store, ran, writes = SQLiteEventStore(path), [0], [False]
    for number in range(others):
        committed(store, blocking, f"{number}", writes=0, customer=f"customer {number}")
    committed(store, blocking, "mine", writes=0)

    def note(statement: str) -> None:
        if statement.startswith(("BEGIN", "COMMIT")):
            writes[0] = statement == "BEGIN IMMEDIATE"

    def count() -> None:
        ran[0] += writes[0]

    assert store._sql is not None
    store._sql.set_trace_callback(note)
    store._sql.set_progress_handler(count, 1)
    assert store.forget(conversation()).block()
    store._sql.set_progress_handler(None, 1)
    assert not store.forget(conversation()).block()
    assert store.accept(event("mine")).block().status == "new"
    store.close()
    return ran[0]


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="Linux counts what is read")
def test_a_large_file_is_opened_without_reading_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much is in it, a process begins at once."""
    path = tmp_path / "events.db"
    store = SQLiteEventStore(path)
    finish(store, TURNS)
    store.close()
    monkeypatch.setattr("langchain_convsync.stores.sqlite.opened.LARGEST", 100_000)
    store, before = SQLiteEventStore(path), _bytes_read()

    store.keys().block()
    read = _bytes_read() - before
    store.close()

    assert read < 100_000 < path.stat().st_size


def _bytes_read() -> int:
    """From the system's cache too."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_what_runs_out_at_once_is_erased_a_little_at_a_time(tmp_path: Path) -> None:
    """After a week without a process, a message is accepted as fast as if little had run out."""
    clock, ran = Clock(), []
    for turns in (50, TURNS):
        store = SQLiteEventStore(tmp_path / f"{turns}.db", clock=clock, replies_kept=0)
        for number in range(turns):
            committed(store, blocking, f"{number}", writes=0, customer=f"customer {number}")
        clock.advance(store.retention + 1)
        ran.append(_instructions(store, "accept", "last"))
        store.close()

    assert ran[1] == pytest.approx(ran[0], rel=0.1)


def test_an_acquire_looks_a_few_times_in_redis_whatever_is_in_it(server: RedisServer) -> None:
    """Once in each shard: a look that finds nothing costs more the more there is beside it."""
    store = RedisEventStore(server.url)
    store.accept(event("1")).block()
    with server.client() as client:
        before = client.info("stats")["keyspace_misses"]
        assert store.acquire("inbox", "worker").block() is not None
        looks = client.info("stats")["keyspace_misses"] - before
    store.close()

    assert looks < SHARDS + 32


def test_what_is_finished_adds_no_command_to_what_redis_does_next(server: RedisServer) -> None:
    """A script asks as often, however much there is; what it asks for, it names."""
    store = RedisEventStore(server.url)
    with server.client() as client:
        empty = [_commands(store, client, what, "first") for what in WORK]
        finish(store, TURNS)
        full = [_commands(store, client, what, "last") for what in WORK]
    store.close()

    # Once in a second the time is noted, too.
    assert dict(zip(WORK, full, strict=True)) == pytest.approx(
        dict(zip(WORK, empty, strict=True)), abs=1
    )


def _commands(store: RedisEventStore, client: Redis, what: str, who: str) -> int:
    """How many commands Redis does, those of its scripts included."""
    store.keys().block()
    client.config_resetstat()
    WORK[what](store, who)
    return sum(each["calls"] for each in client.info("commandstats").values())


def _answer(store: EventStore, who: str) -> None:
    acquired = store.acquire("inbox", who).block()
    assert acquired is not None
    assert store.commit_turn(acquired.lease, commit_of(acquired)).block() == "done"


#: What is done for each message, and what `convsync status` and idle workers look at.
WORK: dict[str, Callable[[EventStore, str], object]] = {
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
