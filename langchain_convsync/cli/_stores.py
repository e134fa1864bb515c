"""The store that a command looks into: one that is there already."""

from __future__ import annotations

from pathlib import Path

from langchain_convsync.errors import ConfigurationError
from langchain_convsync.stores import EventStore, SQLiteEventStore, open_store


def existing_store(url: str) -> EventStore:
    """The event store at a URL; looking for a file creates none.

    Raises:
        ConfigurationError: The URL names no store, or a file that does not exist.
    """
    opened = open_store(url)
    if isinstance(opened, SQLiteEventStore) and not Path(opened.path).exists():
        name = "here" if "@" in opened.path else opened.path  # a URL without scheme has a password
        message = f"there is no event store {name}: check --store or CONVSYNC_STORE_URL"
        raise ConfigurationError(message)
    return opened
