"""What to do where a store turns out to be another one than that which names were made for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from langchain_convsync._flow import Flow
from langchain_convsync.errors import StoreChangedError
from langchain_convsync.stores.base import Keys

T = TypeVar("T")


def with_new_names(work: Callable[[], Flow[T]]) -> Flow[T]:
    """What a flow comes to that makes its names itself; once more where the store has changed."""
    try:
        return (yield from work())
    except StoreChangedError:
        return (yield from work())


def check_names_of(names: Keys | None, opened: Keys) -> None:
    """Raise StoreChangedError where names were made for another store than is open now."""
    if names is not None and names is not opened and names.secret != opened.secret:
        message = "the event store was begun anew while names were made for it; call again"
        raise StoreChangedError(message)
