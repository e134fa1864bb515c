"""The API server and WAHA as Python methods: typed, checked, with deadlines, sync and async."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_convsync._checked import checked
from langchain_convsync._lazy import on_first_use
from langchain_convsync.client._awaited import AsyncConvSyncClient
from langchain_convsync.client._blocking import ConvSyncClient

if TYPE_CHECKING:
    from langchain_convsync.client._api import Api
    from langchain_convsync.client._caller import Caller, Pace
    from langchain_convsync.client._exchange import Answer, Failure, Outcome
    from langchain_convsync.client._retry import http_date
    from langchain_convsync.client._transports import chosen, recommended
    from langchain_convsync.client._waha import ChatMessage, Waha, WahaSession
    from langchain_convsync.client._waha_awaited import AsyncWAHAClient
    from langchain_convsync.client._waha_blocking import WAHAClient

#: Importing the name of a client loads neither what it is made of, nor the other one.
_MODULES = {
    "_api": ("Api",),
    "_caller": ("Caller", "Pace"),
    "_exchange": ("Answer", "Failure", "Outcome"),
    "_retry": ("http_date",),
    "_transports": ("chosen", "recommended"),
    "_waha": ("ChatMessage", "Waha", "WahaSession"),
    "_waha_awaited": ("AsyncWAHAClient",),
    "_waha_blocking": ("WAHAClient",),
}

__all__ = [
    "Answer",
    "Api",
    "AsyncConvSyncClient",
    "AsyncWAHAClient",
    "Caller",
    "ChatMessage",
    "ConvSyncClient",
    "Failure",
    "Outcome",
    "Pace",
    "WAHAClient",
    "Waha",
    "WahaSession",
    "api_of",
    "chosen",
    "http_date",
    "recommended",
]

# Hidden from type checkers: a module-level `__getattr__` would make every name `Any` to them.
if not TYPE_CHECKING:
    __getattr__ = on_first_use(__name__, _MODULES)


@checked
def api_of(client: ConvSyncClient | AsyncConvSyncClient | None) -> Api:
    """The API behind a client, sync or async.

    Args:
        client: A client; None builds the API from ``CONVSYNC_BASE_URL`` and ``CONVSYNC_API_KEY``.

    Raises:
        ConfigurationError: The environment lacks a setting.
    """
    if client is None:
        from langchain_convsync.client._api import Api

        return Api()
    return client.api
