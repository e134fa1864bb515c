"""Everything that a store holds: for proofs about what must not be there."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.redis_server import RedisServer

#: The part of a key that names its account: shard and hash.
ACCOUNT = re.compile(rb"\b[0-9]{2}\.[0-9a-f]{12}\b")


def rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every row of an SQLite store: (table, columns)."""
    with closing(sqlite3.connect(path)) as sql:
        sql.row_factory = sqlite3.Row
        names = sql.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in names:
            for row in sql.execute(f"SELECT * FROM {table}"):
                yield table, dict(row)


def sqlite_records(path: Path) -> Iterator[tuple[str, bytes]]:
    """Every row: the keys in it, and all of it."""
    for table, row in rows(path):
        whole = b" ".join(
            value if isinstance(value, bytes) else str(value).encode() for value in row.values()
        )
        yield table, whole


def redis_records(server: RedisServer) -> Iterator[tuple[str, bytes]]:
    """Every key with its whole value."""
    readers: dict[bytes, Callable[[Any, bytes], Any]] = {
        b"string": lambda client, key: client.get(key),
        b"hash": lambda client, key: b" ".join(b" ".join(p) for p in client.hgetall(key).items()),
        b"list": lambda client, key: b" ".join(client.lrange(key, 0, -1)),
        b"zset": lambda client, key: b" ".join(client.zrange(key, 0, -1)),
        b"set": lambda client, key: b" ".join(client.smembers(key)),
    }
    with server.client() as client:
        for key in client.scan_iter(count=1000):
            kind = client.type(key)
            if kind == b"none":  # it has expired since it was listed
                continue
            value = readers[kind](client, key) or b""
            yield key.decode(), key + b" " + value
