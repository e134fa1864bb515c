"""What outlives every process: a store's file, or its server."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Protocol, TypeAlias

from langchain_convsync.stores import RedisEventStore, SQLiteEventStore
from langchain_convsync.stores.base import EventStore


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


class File:
    """A SQLite file, which each process opens by itself."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._opened: list[SQLiteEventStore] = []

    def open(self) -> EventStore:
        self._opened.append(SQLiteEventStore(self._path))
        return self._opened[-1]

    def close(self) -> None:
        for store in self._opened:
            store.close()

    def holds(self) -> str:
        with closing(sqlite3.connect(self._path)) as sql:
            return "\n".join(sql.iterdump())


class Redis:
    """A real server, empty, with the store's own Lua on the simulation's clock."""

    def __init__(self, url: str, clock: Callable[[], float]) -> None:
        self._url, self._clock = url, clock
        self._opened: list[RedisEventStore] = []

    def open(self) -> EventStore:
        self._opened.append(RedisEventStore(self._url, clock=self._clock))
        return self._opened[-1]

    def close(self) -> None:
        for store in self._opened:
            store.close()

    def holds(self) -> str:
        return ""
