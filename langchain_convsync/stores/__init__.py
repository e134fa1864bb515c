"""Event stores: the durable side of a turn. ``base`` holds the contract."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_convsync.errors import ConfigurationError
from langchain_convsync.settings import required_setting
from langchain_convsync.stores.base import (
    FORMAT_VERSION,
    RETENTION,
    Accepted,
    Backlog,
    Commit,
    Confirmed,
    ConversationView,
    Cursor,
    Done,
    EventState,
    EventStore,
    Handles,
    Lane,
    LaneView,
    Lease,
    Load,
    NewEvent,
    Op,
    QueuedEvent,
    SetAside,
    Taken,
)
from langchain_convsync.stores.sqlite import SQLiteEventStore

if TYPE_CHECKING:
    from langchain_convsync.stores.redis import RedisEventStore

__all__ = [
    "FORMAT_VERSION",
    "RETENTION",
    "Accepted",
    "Backlog",
    "Commit",
    "Confirmed",
    "ConversationView",
    "Cursor",
    "Done",
    "EventState",
    "EventStore",
    "Handles",
    "Lane",
    "LaneView",
    "Lease",
    "Load",
    "NewEvent",
    "Op",
    "QueuedEvent",
    "RedisEventStore",
    "SQLiteEventStore",
    "SetAside",
    "Taken",
    "open_store",
]

# Hidden from type checkers: a module-level `__getattr__` would make every name `Any` to them.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name == "RedisEventStore":  # redis takes a while to import; SQLite does without
            from langchain_convsync.stores.redis import RedisEventStore

            return RedisEventStore
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)


def open_store(url: str | None = None) -> EventStore:
    """The event store that a URL names; nothing is connected yet.

    Args:
        url: ``redis://``, ``rediss://``, ``unix://`` or ``valkey://`` for Redis and Valkey;
            ``redis+sentinel://host:26379,host:26379/service`` and
            ``redis+cluster://host:6379,host:6379`` for several of them;
            ``sqlite:///relative.db``, ``sqlite:////absolute.db``, a file's path or ``:memory:`` for
            SQLite. ``CONVSYNC_STORE_URL`` when absent.

    Raises:
        ConfigurationError: No URL is set, or it names no store.
    """
    url = required_setting(url, argument="store", variable="CONVSYNC_STORE_URL")
    scheme, separator, rest = url.partition("://")
    if not separator:
        return SQLiteEventStore(url)
    if scheme == "sqlite" and rest in {"", "/"}:
        return SQLiteEventStore(":memory:")
    if scheme == "sqlite" and rest.startswith("/"):
        return SQLiteEventStore(rest.removeprefix("/"))
    from langchain_convsync.stores._redis_urls import SCHEMES
    from langchain_convsync.stores.redis import RedisEventStore

    if scheme in SCHEMES:
        return RedisEventStore(url)
    message = (
        f"{scheme}:// is no event store: pass redis://…, rediss://…, unix://…, sqlite:///… or the "
        "path of a file, as store=… or in CONVSYNC_STORE_URL"
    )
    raise ConfigurationError(message)
