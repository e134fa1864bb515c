"""How a command finds the store that it looks into."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from langchain_convsync.errors import ConfigurationError
from langchain_convsync.settings import required_setting
from langchain_convsync.stores import EventStore, SQLiteEventStore, open_store
from langchain_convsync.stores.sqlite.file import is_empty

Store = Annotated[str | None, typer.Option(help="The event store; CONVSYNC_STORE_URL when absent.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object.")]


@contextmanager
def opened_store(store: str | None) -> Iterator[EventStore]:
    """The event store that ``--store`` or the environment names, for a while.

    Raises:
        ConfigurationError: Neither names one, or see :func:`existing_store`.
    """
    url = required_setting(store, argument="--store", variable="CONVSYNC_STORE_URL")
    with closing(existing_store(url)) as opened:
        yield opened


def existing_store(url: str) -> EventStore:
    """The event store at a URL; looking for a file creates none.

    Raises:
        ConfigurationError: The URL names no store, or a file that does not exist, or is empty.
    """
    opened = open_store(url)
    if isinstance(opened, SQLiteEventStore) and not Path(opened.path).exists():
        name = "here" if "@" in opened.path else opened.path  # a URL without scheme has a password
        message = f"there is no event store {name}: check --store or CONVSYNC_STORE_URL"
        raise ConfigurationError(message)
    if isinstance(opened, SQLiteEventStore) and is_empty(opened.path):
        message = (
            f"{opened.path} is empty, so it holds no event store: if there was work in it, it was "
            "truncated, by a power cut or a copy that failed: restore a backup"
        )
        raise ConfigurationError(message)
    return opened
