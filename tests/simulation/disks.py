"""What outlives every process: a store's file, or its server."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from langchain_convsync.stores import RedisEventStore, SQLiteEventStore
from langchain_convsync.stores.base import EventStore
from tests.redis_server import RedisServer


class Disk(Protocol):
    """Where the store of a simulation lies."""

    def open(self) -> EventStore:
        """The store, as a process opens it."""

    def close(self) -> None:
        """Close whatever was opened."""

    def holds(self) -> str:
        """All that lies there, in one text; empty where nobody can look."""


#: An empty one, on a given clock (seconds since 1970).
NewDisk: TypeAlias = Callable[[Callable[[], float]], Disk]


class Memory:
    """A SQLite database in memory, which the processes share."""

    def __init__(self, _clock: Callable[[], float]) -> None:
        self._store = SQLiteEventStore(":memory:")

    def open(self) -> EventStore:
        return self._store

    def close(self) -> None:
        self._store.close()

    def holds(self) -> str:
        sql = self._store._sql  # the one connection that it has
        return "" if sql is None else "\n".join(sql.iterdump())


class Apart:
    """A store that each process opens by itself."""

    def __init__(self) -> None:
        self._opened: list[SQLiteEventStore | RedisEventStore] = []

    def open(self) -> EventStore:
        self._opened.append(self._anew())
        return self._opened[-1]

    def close(self) -> None:
        for store in self._opened:
            store.close()

    def _anew(self) -> SQLiteEventStore | RedisEventStore:
        raise NotImplementedError


class File(Apart):
    """A SQLite file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def holds(self) -> str:
        with closing(sqlite3.connect(self._path)) as sql:
            return "\n".join(sql.iterdump())

    def _anew(self) -> SQLiteEventStore:
        return SQLiteEventStore(self._path)


#: What a command says instead of the time when it is made: its process may stand still before it
#: is sent, and a server knows the time by itself.
LATER = 1e12


def _on_the_wire(time: float) -> bytes:
    return b"%d" % round(time * 1000)


_LATER = _on_the_wire(LATER)


class Redis(Apart):
    """A real server, empty, with the store's own Lua on the simulation's clock."""

    def __init__(self, url: str, clock: Callable[[], float]) -> None:
        super().__init__()
        self._url, self._clock = url, clock

    def holds(self) -> str:
        return ""

    def _anew(self) -> RedisEventStore:
        store = RedisEventStore(self._url, clock=lambda: LATER)
        send = store._clients._send

        def sent_now(key: bytes, commands: Sequence[Any]) -> list[Any]:
            now = _on_the_wire(self._clock())
            return send(key, [[now if p == _LATER else p for p in each] for each in commands])

        setattr(store._clients, "_send", sent_now)  # noqa: B010 - a method
        return store


def on_redis(server: RedisServer) -> NewDisk:
    """A server as the disk of one simulation after the other."""

    def new_disk(clock: Callable[[], float]) -> Disk:
        server.empty()
        return Redis(server.url, clock)

    return new_disk
