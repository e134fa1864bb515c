"""Event stores: the durable side of a turn. ``base`` holds the contract."""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import unquote

from langchain_convsync._checked import checked
from langchain_convsync._lazy import on_first_use
from langchain_convsync.errors import ConfigurationError
from langchain_convsync.settings import required_setting
from langchain_convsync.stores.base import (
    FORMAT_VERSION,
    REPLIES_KEPT,
    RETENTION,
    Accepted,
    AcceptRules,
    Acquired,
    Backlog,
    Commit,
    Confirmed,
    ConversationView,
    Cursor,
    DeadLetter,
    DeadLetterPage,
    Done,
    EventState,
    EventStore,
    KeptCall,
    Keys,
    Lease,
    Load,
    NewEvent,
    Operation,
    QueuedEvent,
    QueueName,
    QueueView,
    StoreLike,
)

if TYPE_CHECKING:
    from langchain_convsync.stores.redis import RedisEventStore
    from langchain_convsync.stores.sqlite import SQLiteEventStore

#: Either store does without what the other one needs.
_MODULES = {"redis": ("RedisEventStore",), "sqlite": ("SQLiteEventStore",)}

__all__ = [
    "FORMAT_VERSION",
    "REPLIES_KEPT",
    "RETENTION",
    "AcceptRules",
    "Accepted",
    "Acquired",
    "Backlog",
    "Commit",
    "Confirmed",
    "ConversationView",
    "Cursor",
    "DeadLetter",
    "DeadLetterPage",
    "Done",
    "EventState",
    "EventStore",
    "KeptCall",
    "Keys",
    "Lease",
    "Load",
    "NewEvent",
    "Operation",
    "QueueName",
    "QueueView",
    "QueuedEvent",
    "RedisEventStore",
    "SQLiteEventStore",
    "StoreLike",
    "open_store",
    "store_of",
]

# Hidden from type checkers: a module-level `__getattr__` would make every name `Any` to them.
if not TYPE_CHECKING:
    __getattr__ = on_first_use(__name__, _MODULES)


@checked
def open_store(url: str | os.PathLike[str] | None = None) -> EventStore:
    """The event store that a URL names; nothing is connected yet.

    Args:
        url: ``redis://``, ``rediss://``, ``unix://`` or ``valkey://`` for Redis and Valkey;
            ``redis+sentinel://host:26379,host:26379/service`` and
            ``redis+cluster://host:6379,host:6379`` for several of them;
            ``sqlite:///relative.db``, ``sqlite:////absolute.db``, a file's path or ``:memory:`` for
            SQLite. ``CONVSYNC_STORE_URL`` when absent. Spaces and line breaks around it are left
            out; what is special in a URL is percent-encoded.

    Raises:
        ConfigurationError: No URL is set, or it names no store; the error does not repeat it.
    """
    if isinstance(url, os.PathLike):
        return _in_file(os.fspath(url))
    url = required_setting(url, argument="store", variable="CONVSYNC_STORE_URL")
    scheme, separator, rest = url.partition("://")
    if not separator or url[0] in "'\"":  # which refuses quotes
        return _in_file(url)
    if scheme.lower() == "sqlite":
        if rest in {"", "/"}:
            return _in_file(":memory:")
        path, asks, _ = rest.partition("?")
        if not path.startswith("/") or asks:
            message = (
                "a sqlite:// URL is sqlite:///relative.db, sqlite:////absolute.db or sqlite://, "
                "without options (those of the store are arguments of SQLiteEventStore): pass one "
                "as store=… or in CONVSYNC_STORE_URL"
            )
            raise ConfigurationError(message)
        return _in_file(unquote(path.removeprefix("/")))
    from langchain_convsync.stores.redis import RedisEventStore

    return RedisEventStore(url)


def store_of(given: StoreLike) -> EventStore:
    """The store; one that is named is opened once, for all of the process that name it.

    Raises:
        ConfigurationError: The URL names no store.
    """
    return _named(os.fspath(given)) if isinstance(given, str | os.PathLike) else given


@cache
def _named(url: str) -> EventStore:
    return open_store(url)


def _in_file(path: str) -> EventStore:
    from langchain_convsync.stores.sqlite import SQLiteEventStore

    return SQLiteEventStore(path)
