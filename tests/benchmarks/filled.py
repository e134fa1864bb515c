"""Stores as full as after years: what real turns left in them, many times, under other names.

Nothing of a store's schema is written down here. A runner answers a customer of each account; what
the engine keeps of that for longer than a day is read, and written again with every name in it
replaced by one of the same length. The copies run out evenly over the week to come.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import socket
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
import redis

from langchain_convsync import (
    AsyncConvSyncClient,
    InboundEvent,
    RedisEventStore,
    SQLiteEventStore,
    TurnRunner,
)
from langchain_convsync._flow import monotonic
from langchain_convsync.stores import EventStore
from langchain_convsync.stores.base import LONGEST_SNAPSHOT, RETENTION
from tests.benchmarks.agents import decided, new_agent
from tests.benchmarks.customers import new_customers, text_of
from tests.benchmarks.place import Place

#: Turns of every conversation.
TALK = 10
#: Milliseconds: what is kept for longer is what a store is full of.
SHORT = round(LONGEST_SNAPSHOT * 1000) + 1000
#: Digits of an account key, which every name of its conversations begins with.
ACCOUNT = 15
#: What differs in each copy: hashes that name something, and when it runs out.
_RUNS_OUT = b"@RUNS_OUT_AT@"
_DIFFERS = re.compile(rb"([0-9a-f]{24}|" + _RUNS_OUT + rb")")
#: Copies that are made at a time.
_AT_ONCE = 100
#: Commands that Redis does for certain in a second.
_PER_SECOND = 50_000


@dataclass(frozen=True, slots=True)
class Filled:
    """What fills a store: conversations that have nothing to do.

    Attributes:
        talks: Those that real turns were about.
        copies: How many were made of each.
        turn: Bytes that a finished turn takes, its share of all indexes included.
        talk: Bytes that a conversation takes beside its turns.
        keys: In Redis, what was copied.
    """

    talks: Sequence[str]
    copies: int
    turn: float
    talk: float
    keys: Sequence[bytes] = ()

    @property
    def conversations(self) -> int:
        """How many copies there are."""
        return len(self.talks) * self.copies

    def conversation(self, number: int) -> str:
        """The conversation key of one of the copies."""
        talk = self.talks[number % len(self.talks)]
        account, _, name = talk.rpartition(".")
        return f"{account}.{_renamed(name.encode(), number // len(self.talks)).decode()}"


def _renamed(name: bytes, copy: int) -> bytes:
    return blake2b(b"%d" % copy, key=name, digest_size=12).hexdigest().encode()


def _runs_out(copy: int, copies: int, now: int) -> int:
    return now + round(RETENTION * 1000 * (copy + 1) / copies)


class _Form:
    """A text in which names stand, to be filled in for each copy; its length stays the same."""

    def __init__(self, text: str | bytes) -> None:
        self._is_text = isinstance(text, str)
        self._parts = _DIFFERS.split(text.encode() if isinstance(text, str) else text)
        self.names = set(self._parts[1::2]) - {_RUNS_OUT}

    def filled(self, names: Mapping[bytes, bytes]) -> Any:
        """The text of a copy."""
        parts = self._parts.copy()
        parts[1::2] = map(names.__getitem__, parts[1::2])
        filled = b"".join(parts)
        return filled.decode() if self._is_text else filled

    def copies(self, some: range, copies: int, now: int) -> Iterator[Any]:
        """The texts of some of them."""
        for copy in some:
            names = {name: _renamed(name, copy) for name in self.names}
            yield self.filled({**names, _RUNS_OUT: b"%d" % _runs_out(copy, copies, now)})


async def _talk(place: Place, store: EventStore, accounts: int) -> None:
    """A customer of every account is answered, whose messages WAHA's webhook would tell so."""
    async with AsyncConvSyncClient(place.api_url) as client:
        runner = TurnRunner(
            new_agent(), client=client, store=store, extractor=decided, max_turns_per_minute=None
        )
        async with runner:
            for account, customer in enumerate(new_customers(accounts)):
                for turn in range(1, TALK + 1):
                    chat = f"{customer.phone_number[1:]}@c.us"
                    event = InboundEvent(
                        event_id=f"false_{chat}_3EB0{account:08X}{turn:08X}",
                        phone_number=customer.phone_number,
                        chat_id=chat,
                        text=text_of(turn),
                        waha_session=f"shop {account}",
                        business_number=f"+5118{account:07d}",
                    )
                    assert (await runner.arun(event)).status == "answered"


def fill_redis(place: Place, url: str, accounts: int, copies: int) -> Filled:
    """Answer customers of so many accounts, and copy what is left of that."""
    store = RedisEventStore(url)
    asyncio.run(_talk(place, store, accounts))
    store.close()
    with redis.Redis.from_url(url) as client:
        kept = _kept(client)
        talks = [key for key in kept if b"}:c:" in key]
        events = [key for key in kept if key not in talks]
        now, sizes, before = time.time_ns() // 1_000_000, [_used(client)], client.dbsize()
        for keys in (events, talks):
            _send_copies(client, [_written_again(client, key) for key in keys], copies, now)
            sizes.append(_used(client))
        # The first copies, and what lives short, may have run out meanwhile.
        assert client.dbsize() - before == pytest.approx(len(kept) * copies, rel=0.01, abs=before)
    turn, talk = (after - before for before, after in itertools.pairwise(sizes))
    names = [key.rpartition(b":")[2].decode() for key in talks]
    total = len(names) * copies
    return Filled(names, copies, turn / total / TALK, talk / total, kept)


def let_run_out(url: str, filled: Filled, copies: int) -> None:
    """Let the first copies of each conversation run out, all at the time when this ends."""
    wait = 1 + len(filled.keys) * copies / _PER_SECOND
    until, at = time.monotonic() + wait, time.time_ns() // 1_000_000 + round(wait * 1000)
    made = [_command(b"PEXPIREAT", key, b"%d" % at) for key in filled.keys]
    with redis.Redis.from_url(url) as client:
        _send_copies(client, made, copies, 0)
    time.sleep(max(0.0, until - time.monotonic()))


def _send_copies(client: redis.Redis, made: Sequence[bytes], copies: int, now: int) -> None:
    """Send commands, with other names for each copy."""
    form = _Form(b"".join(made))
    given = client.connection_pool.connection_kwargs
    with closing(socket.create_connection((given["host"], given["port"]))) as wire:
        wire.sendall(
            _command(b"CLIENT", b"REPLY", b"OFF") + _command(b"SELECT", b"%d" % given["db"])
        )
        for first in range(0, copies, _AT_ONCE):
            some = range(first, min(copies, first + _AT_ONCE))
            wire.sendall(b"".join(form.copies(some, copies, now)))
        wire.sendall(_command(b"CLIENT", b"REPLY", b"ON"))
        assert wire.recv(5) == b"+OK\r\n"


def _used(client: redis.Redis) -> int:
    used: int = client.info("memory")["used_memory"]
    return used


def _kept(client: redis.Redis) -> list[bytes]:
    return [key for key in client.scan_iter(count=1000) if client.pttl(key) > SHORT]


def _written_again(client: redis.Redis, key: bytes) -> bytes:
    """The commands that write a key as it is, for a copy."""
    kind = client.type(key)
    if kind == b"hash":
        values = itertools.chain(*client.hgetall(key).items())
        made = _command(b"HSET", key, *values)
    else:
        assert kind == b"string", f"{key!r} is left of a turn, and is a {kind!r}"
        made = _command(b"SET", key, client.get(key))
    return made + _command(b"PEXPIREAT", key, _RUNS_OUT)


def _command(*words: Any) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in words)


def fill_sqlite(place: Place, path: Path, accounts: int, copies: int) -> Filled:
    """The same in a file."""
    store = SQLiteEventStore(path)
    asyncio.run(_talk(place, store, accounts))
    store.close()
    _let_run_out(path, accounts * TALK)
    with closing(sqlite3.connect(path, isolation_level=None)) as sql:
        for setting in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -1000000"):
            sql.execute(f"PRAGMA {setting}")
        talks = [row[0] for row in sql.execute("SELECT conversation FROM conversations")]
        [now] = sql.execute("SELECT value FROM meta WHERE name = 'seen'").fetchone()
        sizes = [_size(sql)]
        for tables in ({"events"}, _tables(sql) - {"events"}):
            written = [
                (table, _rows(sql, table, talk[:ACCOUNT])) for table in tables for talk in talks
            ]
            for first in range(0, copies, _AT_ONCE):
                some = range(first, min(copies, first + _AT_ONCE))
                sql.execute("BEGIN")
                for table, rows in written:
                    if rows:
                        insert = f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})"
                        sql.executemany(insert, _copied(rows, some, copies, now))
                sql.execute("COMMIT")
            sizes.append(_size(sql))
        sql.execute("PRAGMA journal_mode = WAL")
    turn, talk = (after - before for before, after in itertools.pairwise(sizes))
    total = len(talks) * copies
    return Filled(talks, copies, turn / total / TALK, talk / total)


def _size(sql: sqlite3.Connection) -> int:
    [pages], [size] = (sql.execute(f"PRAGMA page_{each}").fetchone() for each in ("count", "size"))
    return int(pages * size)


def _let_run_out(path: Path, events: int) -> None:
    """What is kept for a day at most goes as it does in a store that is used after that."""
    store = SQLiteEventStore(path, clock=lambda: monotonic() + SHORT / 1000)
    for _ in range(events):
        store.pause("00.000000000000." + "0" * 24, seconds=0).block()
    store.close()


def _tables(sql: sqlite3.Connection) -> set[str]:
    found = sql.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    return {name for (name,) in found}


def _rows(sql: sqlite3.Connection, table: str, account: str) -> list[list[Any]]:
    """The rows of a table that are about conversations of an account, for :func:`_copied`."""
    found = sql.execute(f"SELECT * FROM {table}")
    columns = [column for column, *_ in found.description]
    rows = [row for row in found if any(account in each for each in row if isinstance(each, str))]
    return [
        [_value(column, value) for column, value in zip(columns, row, strict=True)]
        for row in rows
        if any(isinstance(each, str) and _DIFFERS.search(each.encode()) for each in row)
    ]


def _value(column: str, value: Any) -> Any:
    if column == "seq":
        return None  # the next one
    if column == "expires" and value is not None:
        return _RUNS_OUT
    return _Form(value) if isinstance(value, str | bytes) else value


def _copied(rows: list[list[Any]], some: range, copies: int, now: int) -> Iterator[list[Any]]:
    names = {name for row in rows for each in row if isinstance(each, _Form) for name in each.names}
    for copy in some:
        given = {name: _renamed(name, copy) for name in names}
        runs_out = _runs_out(copy, copies, now)
        for row in rows:
            yield [
                runs_out
                if each is _RUNS_OUT
                else each.filled(given)
                if isinstance(each, _Form)
                else each
                for each in row
            ]
