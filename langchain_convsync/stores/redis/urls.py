"""Where Redis is: one server, the primary that sentinels know, or a cluster; and its client."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import redis
import redis.asyncio
import redis.asyncio.cluster
import redis.asyncio.sentinel
import redis.cluster
import redis.sentinel
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.retry import Retry

from langchain_convsync.errors import ConfigurationError

#: How Celery and Python's ssl call what redis-py calls ``none``, ``optional`` and ``required``.
_CERT = re.compile(r"(\bssl_cert_reqs=)(?:CERT_)?(\w+)", re.IGNORECASE)
_NAMESPACE = re.compile(r"[A-Za-z0-9_-]{0,64}")
_PLAIN = {"redis": "redis", "rediss": "rediss", "valkey": "redis", "valkeys": "rediss"}
_PORTS = {"sentinel": 26379, "cluster": 6379}
#: What the URL of a Redis or Valkey begins with, before ``://``.
SCHEMES = frozenset({"unix", *_PLAIN, *(f"{name}+{kind}" for name in _PLAIN for kind in _PORTS)})

_FORMS = (
    "the URL names no event store: pass redis://host:6379/0, rediss://… with TLS, "
    "unix:///path/of.sock, redis+sentinel://host:26379,host:26379/service, "
    "redis+cluster://host:6379,host:6379, sqlite:///… or the path of a file, as store=…, url=… or "
    "in CONVSYNC_STORE_URL; user and password are percent-encoded "
    "(urllib.parse.quote(password, safe=''))"
)

_OPTIONS = (
    "the URL of Redis has an option after the ? that redis-py does not know, or not with that "
    "value: leave out what is for other libraries, such as virtual_host; ssl_… need rediss://"
)

#: Seconds for one try. The retries are ours alone: redis-py's own would multiply them.
_CONNECTION: dict[str, Any] = {
    "socket_timeout": 2.0,
    "socket_connect_timeout": 2.0,
    "protocol": 2,
}
#: More commands than this at once wait for a connection, at most so many seconds.
_POOL: dict[str, Any] = {"max_connections": 64, "timeout": 5.0}
#: The pools of the other topologies cannot wait: one that is full would fail instead.
_UNBOUNDED: dict[str, Any] = {"max_connections": 2**31}


@dataclass(frozen=True, slots=True)
class Address:
    """Where Redis is; its repr shows no password.

    Attributes:
        hosts: Sentinels, or nodes of a cluster; empty for a single server.
        service: The name under which the sentinels know the primary; None without sentinels.
        url: A single server's; empty otherwise.
        options: Keyword arguments of every connection to it.
        sentinel_options: Keyword arguments of the connections to its sentinels.
        namespace: What stands behind ``cs:`` in every key; empty for nothing.
    """

    hosts: tuple[tuple[str, int], ...] = ()
    service: str | None = None
    url: str = field(default="", repr=False)
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    sentinel_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    namespace: str = ""

    @property
    def is_cluster(self) -> bool:
        """Whether it is a Redis Cluster."""
        return bool(self.hosts) and self.service is None


@dataclass(frozen=True, slots=True)
class RedisClasses:
    """The classes of redis-py sync or async."""

    redis: Any
    pool: Any
    sentinel: Any
    cluster: Any
    node: Any
    retry: Any


BLOCKING = RedisClasses(
    redis=redis.Redis,
    pool=redis.BlockingConnectionPool,
    sentinel=redis.sentinel.Sentinel,
    cluster=redis.cluster.RedisCluster,
    node=redis.cluster.ClusterNode,
    retry=Retry,
)
ASYNCHRONOUS = RedisClasses(
    redis=redis.asyncio.Redis,
    pool=redis.asyncio.BlockingConnectionPool,
    sentinel=redis.asyncio.sentinel.Sentinel,
    cluster=redis.asyncio.cluster.RedisCluster,
    node=redis.asyncio.cluster.ClusterNode,
    retry=AsyncRetry,
)


def address_of(url: str) -> Address:
    """Where a URL leads.

    Raises:
        ConfigurationError: It is not a Redis URL; the error does not repeat it.
    """
    url, namespace = _without_namespace(url.strip())
    scheme, _, rest = url.partition("://")
    url = f"{scheme.lower()}://{_CERT.sub(lambda found: found[1] + found[2].lower(), rest)}"
    try:
        found = _parsed(url)
    except ValueError:  # it repeats parts of the URL, so it is not a cause of ours
        found = None
    if found is None:
        raise ConfigurationError(_FORMS)
    if not _accepts(found):
        raise ConfigurationError(_OPTIONS)
    return replace(found, namespace=check_namespace(namespace))


def check_namespace(namespace: str) -> str:
    """The namespace.

    Raises:
        ConfigurationError: Keys cannot hold it.
    """
    if not _NAMESPACE.fullmatch(namespace):
        message = "a namespace is made of letters, digits, - and _: staging"
        raise ConfigurationError(message)
    return namespace


def _without_namespace(url: str) -> tuple[str, str]:
    """A URL, and what its query says of the keys, which redis-py does not know."""
    place, asks, query = url.partition("?")
    options = query.split("&")
    own = [each for each in options if each.startswith("namespace=")]
    rest = "&".join(each for each in options if each not in own)
    return place + (asks if rest else "") + rest, own[-1].partition("=")[2] if own else ""


def _accepts(address: Address) -> bool:
    """Whether redis-py makes connections of that, sync and async; none is connected."""
    options = dict(address.options)
    tls = options.pop("ssl", False)
    try:
        for classes, module in ((BLOCKING, redis), (ASYNCHRONOUS, redis.asyncio)):
            if address.url:
                classes.pool.from_url(address.url).make_connection()
            else:
                (module.SSLConnection if tls else module.Connection)(**options)
    except (TypeError, ValueError, redis.RedisError):
        return False
    return True


def opened(address: Address, classes: RedisClasses) -> Sequence[Any]:
    """A client, and after it what is to be closed with it."""
    retry = {"retry": classes.retry(NoBackoff(), 0)}
    if address.service is not None:
        sentinel = classes.sentinel(
            address.hosts,
            sentinel_kwargs={**_CONNECTION, **retry, **address.sentinel_options},
            **{**_CONNECTION, **_UNBOUNDED, **retry, **address.options},
        )
        return sentinel.master_for(address.service), *sentinel.sentinels
    if address.is_cluster:
        cluster = classes.cluster(
            startup_nodes=[classes.node(host, port) for host, port in address.hosts],
            require_full_coverage=False,  # what lies on the other nodes goes on
            **{**_CONNECTION, **_UNBOUNDED, **retry, **address.options},
        )
        return (cluster,)
    pool = classes.pool.from_url(address.url, **retry, **_CONNECTION, **_POOL)
    return (classes.redis.from_pool(pool),)


def _parsed(url: str) -> Address:
    scheme, _, rest = url.partition("://")
    name, _, kind = scheme.partition("+")
    plain = f"{_PLAIN.get(name, name)}://"
    if scheme not in SCHEMES:
        message = "there is no such scheme"
        raise ValueError(message)
    if not kind:
        parse_url(plain + rest)  # type: ignore[no-untyped-call]  # redis-py has no annotations
        path = urlsplit(rest and plain + rest).path.strip("/")
        if name != "unix" and path and not path.isdecimal():
            message = "the database is no number"  # redis-py would take 0
            raise ValueError(message)
        return Address(url=plain + rest)
    parts = urlsplit(plain + rest)
    user, at, hosts = parts.netloc.rpartition("@")
    found = tuple(_host(host, _PORTS[kind]) for host in hosts.split(","))
    options = _options(f"{plain}{user}{at}localhost?{parts.query}")
    if kind == "cluster":
        if parts.path not in {"", "/", "/0"}:
            message = "a cluster has no databases"
            raise ValueError(message)
        return Address(hosts=found, options=options)
    return _behind_sentinels(found, parts, options)


def _behind_sentinels(
    hosts: tuple[tuple[str, int], ...], parts: SplitResult, options: dict[str, Any]
) -> Address:
    service, _, db = unquote(parts.path).strip("/").partition("/")
    if not service:
        message = "the service's name is missing"
        raise ValueError(message)
    own = {name: options.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    shared = {name: value for name, value in options.items() if name.startswith("ssl")}
    return Address(
        hosts=hosts,
        service=service,
        options={**options, "db": int(db or 0)},
        sentinel_options=shared | {name: value for name, value in own.items() if value},
    )


def _host(host: str, port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{host}")
    if not parts.hostname:
        message = "a host's name is missing"
        raise ValueError(message)
    return parts.hostname, parts.port or port


def _options(url: str) -> dict[str, Any]:
    """User, password, TLS and the query's settings, as keyword arguments."""
    options: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]  # as above
    for name in ("host", "port", "db"):
        options.pop(name, None)
    if options.pop("connection_class", None):
        options["ssl"] = True
    return options
