"""What awaited calls travel over: chosen by name, never by what happens to be installed.

Blocking calls travel over httpx in either case. So users' mocks of httpx see every call unless
aiohttp was asked for.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version

import httpx

from langchain_convsync.errors import ConfigurationError
from langchain_convsync.settings import (
    TRANSPORTS,
    Transport,
    transport_setting,
    trust_env_setting,
)

#: The first aiohttp whose repetition of GET and PUT can be switched off.
NEEDED = (3, 12)
_PIP = "pip install 'langchain-convsync[aiohttp]'"


def chosen(
    transport: Transport | None, http_client: httpx.Client | httpx.AsyncClient | None
) -> Transport:
    """The transport of a client, once it is known to work.

    Args:
        transport: The argument; None takes ``CONVSYNC_TRANSPORT``, else ``"httpx"``.
        http_client: A lent client, which carries every call itself.

    Raises:
        ConfigurationError: There is no such transport, it is not installed or too old, or a
            client is lent besides, or something that is none of httpx's.
    """
    if http_client is not None:
        _require_httpx(http_client)
        if transport == "aiohttp":
            message = 'http_client= carries the calls itself: leave transport="aiohttp" out'
            raise ConfigurationError(message)
        transport = transport or "httpx"
    found = transport_setting(transport)
    if found == "aiohttp":
        _require_aiohttp()
    return found


def _require_httpx(lent: object) -> None:
    """Other libraries' clients look alike, and call their errors otherwise."""
    if not isinstance(lent, httpx.Client | httpx.AsyncClient):
        name = f"{type(lent).__module__.partition('.')[0]}.{type(lent).__qualname__}"
        message = (
            "http_client= must be an httpx.Client or httpx.AsyncClient, of the package httpx; "
            f"this is an object of {name}"
        )
        raise ConfigurationError(message)


def trusts(
    trust_env: bool | None,
    http_client: httpx.Client | httpx.AsyncClient | None,
) -> bool:
    """Whether our own connections use the proxy and certificates that the environment names.

    Args:
        trust_env: The argument; None takes ``CONVSYNC_TRUST_ENV``, else they do not.
        http_client: A lent client, which has its own.

    Raises:
        ConfigurationError: A client is lent besides, or the variable is neither yes nor no.
    """
    if http_client is None:
        return trust_env_setting(trust_env)
    if trust_env:
        message = "http_client= carries the calls itself: leave trust_env=True to its maker"
        raise ConfigurationError(message)
    return False


def _require_aiohttp() -> None:
    """Load it now, so that no event loop waits for that later."""
    needed = ".".join(map(str, NEEDED))
    try:
        import aiohttp

        if not _fits(aiohttp.__version__):
            raise ConfigurationError(_not_here(f"{needed} or later, not {aiohttp.__version__}"))
        import langchain_convsync.client._aiohttp  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(_not_here(f"{needed} or later, which is not here")) from error


def _not_here(what: str) -> str:
    choices = " or ".join(f'"{name}"' for name in TRANSPORTS)
    return (
        f'transport="aiohttp" (or CONVSYNC_TRANSPORT) needs aiohttp {what}: {_PIP}; '
        f"the choices are {choices}"
    )


def _fits(version: str) -> bool:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2]) >= NEEDED


def recommended(*transports: Transport | None) -> str:
    """One line for an operator where aiohttp is installed and not used; else empty.

    Args:
        transports: What awaited calls travel over; None for a lent client, its owner's choice.
    """
    if "httpx" not in transports:
        return ""
    try:
        installed = _fits(version("aiohttp"))
    except PackageNotFoundError:
        return ""
    if not installed:
        return ""
    return (
        "aiohttp is installed and not used: "
        'transport="aiohttp" (or CONVSYNC_TRANSPORT=aiohttp) makes async calls cheaper'
    )
