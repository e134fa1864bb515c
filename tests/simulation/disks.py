"""What outlives every process: a store's file, or its server."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from langchain_convsync.stores import RedisEventStore, SQLiteEventStore
from langchain_convsync.stores import redis as store_of_redis
from langchain_convsync.stores.base import EventStore, keys
from langchain_convsync.stores.redis import wire
from langchain_convsync.stores.redis.wire import Script, script
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
#: Shards of a store in a simulation: a look for work goes through all of them, and most are empty.
SHARDS = 4


def _divide(shards: int) -> None:
    """Have stores of this many shards from now on."""
    for module in (keys, wire, store_of_redis):
        setattr(module, "SHARDS", shards)  # noqa: B010 - three names of one constant
    keys._account.cache_clear()


class Redis(Apart):
    """A real server, empty, with the store's own Lua on the simulation's clock."""

    def __init__(self, url: str, clock: Callable[[], float]) -> None:
        super().__init__()
        self._url, self._clock = url, clock
        self._shards = keys.SHARDS
        _divide(SHARDS)

    def close(self) -> None:
        super().close()
        _divide(self._shards)

    def holds(self) -> str:
        return ""

    def _anew(self) -> RedisEventStore:
        store = RedisEventStore(self._url, clock=lambda: LATER)
        setattr(store._clients, "_send", Sent(store._clients._send, self._clock))  # noqa: B010 - a method
        return store


@dataclass(frozen=True)
class Sent:
    """How a process sends commands to Redis: with the time at which it does so."""

    send: Callable[[bytes, Sequence[Any]], list[Any]]
    clock: Callable[[], float]

    def __call__(self, key: bytes, commands: Sequence[Any]) -> list[Any]:
        """Send them."""
        now = _on_the_wire(self.clock())
        return self.send(key, [[now if p == _LATER else p for p in each] for each in commands])

    @staticmethod
    def named(_key: bytes, commands: Sequence[Any]) -> str:
        """What the first of them does, in a word: the script's name, or the command's."""
        command, *arguments = commands[0]
        return _scripts()[arguments[0]][0] if command == "EVALSHA" else f"{command}"


@cache
def _scripts() -> dict[bytes, tuple[str, Script]]:
    """The store's scripts, by their digests, with their names."""
    files = resources.files(store_of_redis) / "lua"
    names = [Path(each.name).stem for each in files.iterdir() if not each.name.startswith("_")]
    scripts = [(name, script(name, prelude=name != "open")) for name in sorted(names)]
    return {each.sha: (name, each) for name, each in scripts}


def on_redis(server: RedisServer) -> NewDisk:
    """A server as the disk of one simulation after the other: it knows the scripts from the first.

    Else the first one would have steps of its own, in which they are told.
    """
    with server.client() as client:
        for _, each in _scripts().values():
            client.script_load(each.source)

    def new_disk(clock: Callable[[], float]) -> Disk:
        server.empty()
        return Redis(server.url, clock)

    return new_disk
