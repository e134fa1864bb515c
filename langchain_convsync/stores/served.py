"""Which API server's conversations a store holds: what works for another one is refused.

A store does not know which API server an event belongs to. Two of them on one store would answer
each other's customers, and write into each other's histories.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
from collections.abc import Iterable
from dataclasses import asdict
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from langchain_convsync._flow import Flow, Io, monotonic
from langchain_convsync._lines import count_of
from langchain_convsync.errors import ConfigurationError
from langchain_convsync.settings import DOCUMENTED_PREFIX, base_url_setting, is_loopback
from langchain_convsync.stores.base import EventStore, Keys
from langchain_convsync.stores.changed import with_new_names

logger = logging.getLogger(__name__)

#: Seconds after which a process looks again: the store may serve another server by then.
PERIOD = 60.0
#: Seconds that a server on this machine may take to accept a connection.
_KNOCK = 1.0
_PORTS = {"http": 80, "https": 443}
_LOCALHOST = {"localhost", "127.0.0.1", "::1"}
#: Per store and address, when this process saw last that the store serves it, and its keys then.
_seen: WeakKeyDictionary[EventStore, dict[str, tuple[float, Keys]]] = WeakKeyDictionary()


def require_served(store: EventStore, address: str) -> Flow[None]:
    """Refuse an API server unless the store serves it, from now on where it serves none yet.

    Args:
        store: The store.
        address: Where the server's endpoints are.

    Raises:
        ConfigurationError: The store serves another one; the message tells the ways out.
        StoreError: The store did not answer.
    """
    seen, keys = _seen.setdefault(store, {}), (yield from store.keys())
    at, known = seen.get(address, (-math.inf, None))
    if known is keys and monotonic() - at < PERIOD:  # else it was begun anew, or opened again
        return
    if not (yield from with_new_names(lambda: _is_served(store, address))):
        message = (
            "this store serves another API server, whose customers would be answered for this "
            "one: give this one a store of its own (another SQLite file, or a namespace on the "
            "same Redis: redis://host/0?namespace=staging). Where it is the same API server under "
            f"another address: convsync adopt {address}"
        )
        raise ConfigurationError(message)
    seen[address] = monotonic(), keys


def adopted(store: EventStore, address: str, *, only: bool = False) -> Flow[int]:
    """Let a store serve an API server under this address, too, or only under this one.

    Returns:
        Under how many addresses it is served now.
    """

    def noted() -> Flow[tuple[str, ...]]:
        name = name_of((yield from store.keys()), address)
        return (yield from store.serve(name, adopt="only" if only else "also"))

    return len((yield from with_new_names(noted)))


def serves(store: EventStore, addresses: Iterable[str]) -> Flow[bool | None]:
    """Whether a store serves one of these; None where it serves no API server yet."""
    keys, known = (yield from store.keys()), (yield from store.serve())
    return bool({name_of(keys, each) for each in addresses} & {*known}) if known else None


def address_of(url: str) -> str:
    """Where an API server's endpoints are; without a path, under the documented prefix.

    Raises:
        ConfigurationError: It is not a URL that a client would take.
    """
    known = base_url_setting(url)
    return known if urlsplit(known).path else f"{known}{DOCUMENTED_PREFIX}"


def name_of(keys: Keys, address: str) -> str:
    """How a store knows an API server; of one on this machine, the port can be read."""
    parts = urlsplit(address)
    host, usual = parts.hostname or "", _PORTS.get(parts.scheme)
    port = parts.port or usual
    local = is_loopback(host)
    place = "localhost" if host in _LOCALHOST else host
    name = keys.server(f"{place if port == usual else f'{place}:{port}'}{parts.path.rstrip('/')}")
    return f"{name}:{port}" if local else name


def _is_served(store: EventStore, address: str) -> Flow[bool]:
    name = name_of((yield from store.keys()), address)
    known = yield from store.serve(name)
    if name in known:
        return True
    ports = [each.partition(":")[2] for each in (name, *known)]
    # A server of a test or a notebook has another port each time.
    if not all(ports) or (yield from Io(_any_listens, _any_awaited, ports[1:])):
        return False
    yield from store.serve(name, adopt="only")
    left = yield from store.backlog()
    logger.log(
        logging.WARNING if any(asdict(left).values()) else logging.INFO,
        "The API server on this machine that this store served is gone; it serves %s now, also "
        "what is left: %s, %s, %s",
        address,
        count_of(left.queued, "event"),
        count_of(left.writes, "write"),
        count_of(left.replies, "reply", "replies"),
    )
    return True


def _any_listens(ports: Iterable[str]) -> bool:
    return any(map(_listens, ports))


async def _any_awaited(ports: Iterable[str]) -> bool:
    return await asyncio.to_thread(_any_listens, ports)


def _listens(port: str) -> bool:
    try:
        socket.create_connection(("localhost", int(port)), timeout=_KNOCK).close()
    except ConnectionRefusedError:
        return False
    except OSError:  # it cannot be told
        return True
    return True
