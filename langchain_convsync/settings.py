"""Configuration: an argument, else the environment, else an error that names both.

Files, panels and shells add spaces and line breaks around what is set; no setting means any.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias, get_args
from urllib.parse import SplitResult, urlsplit

from pydantic import SecretStr

from langchain_convsync._checked import AsPasted, Count, Seconds, checked
from langchain_convsync.errors import ConfigurationError

DOCUMENTED_PREFIX = "/api/v1/whatsapp"
#: What a public server has instead, and the only intents that it accepts.
OBSERVED_PREFIX = "/api/v1/whatsapp-providers"
OBSERVED_INTENTS = frozenset({"menu", "order", "support", "info", "payment", "delivery", "idle"})


@checked
@dataclass(frozen=True, kw_only=True)
class ServerProfile:
    """What differs between API servers; the defaults are the documented server.

    A public server that was observed, for example, stores customers that WAHA brings under their
    chat id, forgets messages that are posted, records the first one of a customer by itself, and
    knows seven intents::

        ServerProfile(
            prefix="/api/v1/whatsapp-providers",
            phone_format="jid",
            history="sync",
            records_inbound=True,
            intents=frozenset(
                {"menu", "order", "support", "info", "payment", "delivery", "idle"}
            ),
            history_cap=20,
        )

    Attributes:
        prefix: Path under which the endpoints are mounted.
        phone_format: How the server stores customers: ``+51…``, ``51…`` or ``51…@c.us``. LIDs,
            BSUIDs and its own ids have one spelling everywhere.
        history: Whether ``POST …/messages`` persists the history, or only a sync that carries
            the list does. With ``sync`` every surface writes by a PUT of the list as just read plus
            what is new, and the clients' ``add_message`` refuses; what another process writes
            between that read and the PUT is overwritten.
        records_inbound: Whether the server itself records the customer's messages, if only the
            first one of a conversation: then each is looked for and written only where it is
            missing, and the server's records are not given to the agent as history. A
            ``TurnRunner`` does so without being told, for what its read shows and wherever it has
            seen the server record; what is recorded later than that, it looks for if it is told.
        context_sync: Whether a sync merges the context's top-level keys or replaces it whole. With
            ``replace`` it carries the rest of the context as just read, history included.
        intents: The intents that the server accepts; None accepts all.
        history_cap: How many messages the server keeps; None keeps all. With ``history="sync"``
            the oldest ones beyond it are left out.
        idempotency_keys: Whether the server answers a repeated ``Idempotency-Key`` once.
        groups: Whether the server keeps conversations of groups, each under the group's chat id
            (``…@g.us``) where a customer's number stands else. Without, ``create_app(groups=…)``
            and events of groups are refused.
        settle: Seconds after which a request without an answer is surely applied, or never will be.
    """

    prefix: str = DOCUMENTED_PREFIX
    phone_format: Literal["e164", "digits", "jid"] = "e164"
    history: Literal["messages", "sync"] = "messages"
    records_inbound: bool = False
    context_sync: Literal["merge", "replace"] = "merge"
    intents: frozenset[str] | None = None
    history_cap: Count | None = None
    idempotency_keys: bool = False
    groups: bool = True
    settle: Seconds = 10.0


DOCUMENTED_SERVER = ServerProfile()


@checked
@dataclass(frozen=True, kw_only=True)
class CallTarget:
    """What an API key is asked for: a callable ``api_key`` picks the key by it.

    Attributes:
        subdomain: The tenant, where it is known already; None on a first lookup.
        bot_id: The bot, where it is known.
    """

    subdomain: str | None = None
    bot_id: str | None = None


#: What awaited calls travel over; blocking ones travel over httpx.
Transport: TypeAlias = Literal["httpx", "aiohttp"]
_TRANSPORT_ADVICE = (
    "or in CONVSYNC_TRANSPORT; for aiohttp: pip install 'langchain-convsync[aiohttp]'"
)
TransportSetting: TypeAlias = Annotated[Transport | None, AsPasted(_TRANSPORT_ADVICE)]
TRANSPORTS: tuple[Transport, ...] = get_args(Transport)

#: What a callable ``api_key`` gives: the key, or in async clients something to await for it.
GivenKey: TypeAlias = str | SecretStr | Awaitable[str | SecretStr]
APIKey: TypeAlias = (
    str | SecretStr | Callable[[CallTarget], GivenKey] | Callable[[], GivenKey] | None
)


def optional_setting(value: str | None, variable: str) -> str | None:
    """The argument, else the environment variable, else None."""
    if value is not None:
        return value.strip()
    return os.environ.get(variable, "").strip() or None


def required_setting(value: str | None, *, argument: str, variable: str) -> str:
    """The argument, else the environment variable.

    Raises:
        ConfigurationError: Neither is set.
    """
    if found := optional_setting(value, variable):
        return found
    message = f"{argument} is not set: pass {argument}=… or set the environment variable {variable}"
    raise ConfigurationError(message)


def base_url_setting(
    value: str | None,
    variable: str = "CONVSYNC_BASE_URL",
    *,
    allow_http: Iterable[str] | None = None,
) -> str:
    """A server's URL, without a trailing slash.

    Raises:
        ConfigurationError: It is missing, no absolute http(s) URL, carries credentials, a query or
            a fragment, or speaks plain http to a host that is neither this machine nor named by
            ``allow_http`` or ``CONVSYNC_ALLOW_HTTP``.
    """
    opened = opened_hosts(allow_http)
    url = required_setting(value, argument="base_url", variable=variable)
    parts = url_parts(url)
    if parts is None:
        message = (
            "base_url is not an absolute URL: pass one such as https://api.example.com, without "
            "quotes or spaces"
        )
        raise ConfigurationError(message)
    if parts.username is not None or parts.query or parts.fragment:
        message = (
            "base_url must not carry credentials, a query or a fragment: "
            f"pass the key as api_key=… or in {variable.replace('BASE_URL', 'API_KEY')}"
        )
        raise ConfigurationError(message)
    if parts.scheme == "http" and not may_be_plain(parts.hostname or "", opened):
        message = (
            f"base_url must be https: {PLAIN_HTTP}. Inside a network that only your own services "
            f'reach, pass allow_http=["{parts.hostname}"]'
        )
        raise ConfigurationError(message)
    return url.rstrip("/")


def transport_setting(value: Transport | None) -> Transport:
    """What awaited calls travel over: the argument, else ``CONVSYNC_TRANSPORT``, else httpx.

    Raises:
        ConfigurationError: There is no such transport.
    """
    found = optional_setting(value, "CONVSYNC_TRANSPORT") or "httpx"
    if found not in TRANSPORTS:
        choices = " or ".join(f'"{name}"' for name in TRANSPORTS)
        message = f"transport must be {choices} ({_TRANSPORT_ADVICE})"
        raise ConfigurationError(message)
    return found


def trust_env_setting(value: bool | None) -> bool:
    """Whether proxies and certificates come from the environment.

    The argument, else ``CONVSYNC_TRUST_ENV``, else they do not.

    Raises:
        ConfigurationError: The variable is neither yes nor no.
    """
    if value is not None:
        return value
    found = (optional_setting(None, "CONVSYNC_TRUST_ENV") or "").strip().lower()
    if found not in {*_YES, *_NO}:
        message = (
            "CONVSYNC_TRUST_ENV must be 1 or 0: whether HTTPS_PROXY and SSL_CERT_FILE are used"
        )
        raise ConfigurationError(message)
    return found in _YES


_YES, _NO = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")


def url_parts(url: str) -> SplitResult | None:
    """The parts of an absolute http(s) URL; None for anything else.

    No error, as Python's own repeats what it was given: a password that was pasted into a URL.
    """
    if any(each.isspace() or not each.isprintable() for each in url):
        return None  # urlsplit would leave some of them out
    try:
        parts = urlsplit(url)
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return parts if valid else None


#: Where plain http may go, as errors tell it.
PLAIN_HTTP = (
    "plain http is for this machine only, and for the hosts of a private network that "
    "CONVSYNC_ALLOW_HTTP names"
)


def may_be_plain(host: str, opened: Iterable[str] = ()) -> bool:
    """Whether plain http may go to a host: to this machine, or where it was opened by name."""
    by_name = {*opened, *opened_hosts(os.environ.get("CONVSYNC_ALLOW_HTTP", "").split(","))}
    return is_loopback(host) or host.lower() in by_name


def opened_hosts(names: Iterable[str] | None) -> frozenset[str]:
    """The hosts that are opened to plain http; a port or a scheme beside a name means nothing."""
    return frozenset(filter(None, map(_host_of, names or ())))


def _host_of(name: str) -> str | None:
    try:
        return urlsplit(f"//{name.strip().partition('://')[2] or name.strip()}").hostname
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Whether the host name or address is this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def secret_bytes(secret: str | SecretStr, name: str, *, trimmed: bool = True) -> bytes:
    """A secret to sign or to check with, without the spaces and line breaks around it.

    An environment variable that is not UTF-8 reaches Python with its bytes as lone surrogates.

    Raises:
        ConfigurationError: It holds surrogates of another kind; the message names the setting only.
    """
    text = secret.get_secret_value() if isinstance(secret, SecretStr) else secret
    try:
        return (text.strip() if trimmed else text).encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # it holds the secret
        pass
    message = f"{name} holds half a character: read it as UTF-8, or make a new one of ASCII"
    raise ConfigurationError(message)
