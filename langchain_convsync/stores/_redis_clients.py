"""Connections to one Redis, in both colours, and what to tell when they fail."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from typing import Any

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.retry import Retry

from langchain_convsync._flow import Flow, Io, sleep
from langchain_convsync.errors import ClosedError, ConfigurationError, StoreUnavailableError
from langchain_convsync.settings import required_setting

#: Seconds before each further try of a command that got no answer; every command is safe to repeat.
RETRIES = (0.05, 0.25)
#: Seconds for one try. The retries are ours alone: redis-py's own would multiply them.
_CONNECTION: dict[str, Any] = {
    "socket_timeout": 2.0,
    "socket_connect_timeout": 2.0,
    "protocol": 2,
}
#: More commands than this at once wait for a connection, at most so many seconds.
_POOL: dict[str, Any] = {"max_connections": 64, "timeout": 5.0}

_PASSING = (redis.ConnectionError, redis.TimeoutError)
_HINTS: tuple[tuple[type[Exception], str], ...] = (
    (redis.AuthenticationError, "check user and password in the URL"),
    (redis.BusyLoadingError, "it is still loading its data; try again when it is done"),
    (redis.TimeoutError, "check that it is not overloaded, and the network between"),
    (redis.ConnectionError, "check that it runs, and host, port and TLS (rediss://) of the URL"),
    (redis.ReadOnlyError, "it is a replica; connect to the primary"),
    (redis.OutOfMemoryError, "raise maxmemory; it must not evict (maxmemory-policy noeviction)"),
    (
        redis.exceptions.NoPermissionError,
        "its ACL must allow the keys cs:* and the scripts' commands",
    ),
)


class RedisClients:
    """One blocking client, and one asynchronous client per running event loop.

    Args:
        url: Where Redis is; ``CONVSYNC_STORE_URL`` when no blocking client is given either.
        client: A blocking client to use instead; it stays its owner's to close.
        async_client: An asynchronous client to use instead; it stays its owner's to close.

    Raises:
        ConfigurationError: No URL, or one that is no Redis URL.
    """

    def __init__(
        self,
        url: str | None,
        client: redis.Redis | None,
        async_client: redis.asyncio.Redis | None,
    ) -> None:
        if url is not None or client is None:  # leases are renewed in the blocking colour
            url = _checked(required_setting(url, argument="url", variable="CONVSYNC_STORE_URL"))
        self._url = url
        self._injected: tuple[Any, Any] = (client, async_client)
        self._blocking: Any = None
        self._by_loop: dict[asyncio.AbstractEventLoop, tuple[Any, AsyncGenerator[None]]] = {}
        self._lock = threading.Lock()
        self._closed = False

    def command(self, *command: Any, **options: Any) -> Flow[Any]:
        """One command's answer; tried again where no answer arrived.

        Raises:
            StoreUnavailableError: Redis did not answer, or refused.
            redis.exceptions.NoScriptError: It does not know the script.
            ClosedError: The clients are closed.
        """
        for delay in (*RETRIES, None):
            try:
                return (yield self._once(*command, **options))
            except redis.exceptions.NoScriptError:
                raise
            except redis.RedisError as error:
                if delay is None or not isinstance(error, _PASSING):
                    raise _unavailable(error) from error
                yield sleep(delay)
        raise AssertionError  # pragma: no cover - the last try returns or raises

    def close(self) -> None:
        """Close the blocking client, unless it was given."""
        self._closed = True
        with self._lock:
            client, self._blocking = self._blocking, None
        if client is not None:
            client.close()

    async def aclose(self) -> None:
        """Close every client that was not given."""
        self.close()
        here = asyncio.get_running_loop()
        with self._lock:
            closers = [(loop, closer) for loop, (_, closer) in self._by_loop.items()]
        for loop, closer in closers:
            if loop is here:
                await closer.aclose()
            elif loop.is_running():
                asyncio.run_coroutine_threadsafe(closer.aclose(), loop)

    def _once(self, *command: Any, **options: Any) -> Io[Any]:
        async def wait() -> Any:
            client = await self._client_here()
            return await client.execute_command(*command, **options)

        return Io(lambda: self._client().execute_command(*command, **options), wait)

    def _client(self) -> Any:
        self._check_open()
        if self._injected[0] is not None:
            return self._injected[0]
        with self._lock:
            if self._blocking is None:
                pool = redis.BlockingConnectionPool.from_url(
                    self._reachable_url(),
                    retry=Retry(NoBackoff(), 0),
                    **_CONNECTION,
                    **_POOL,
                )
                self._blocking = redis.Redis.from_pool(pool)
            return self._blocking

    async def _client_here(self) -> Any:
        self._check_open()
        if self._injected[1] is not None:
            return self._injected[1]
        loop = asyncio.get_running_loop()
        if known := self._by_loop.get(loop):
            return known[0]
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            self._reachable_url(),
            retry=AsyncRetry(NoBackoff(), 0),
            **_CONNECTION,
            **_POOL,
        )
        client = redis.asyncio.Redis.from_pool(pool)
        closer = self._close_with_loop(loop, client)
        with self._lock:
            for ended in [other for other in self._by_loop if other.is_closed()]:
                del self._by_loop[ended]
            self._by_loop[loop] = client, closer
        await anext(closer)
        return client

    async def _close_with_loop(
        self, loop: asyncio.AbstractEventLoop, client: Any
    ) -> AsyncGenerator[None]:
        """Closes the client when the loop ends: asyncio.run closes pending async generators."""
        try:
            yield
        finally:
            with self._lock:
                self._by_loop.pop(loop, None)
            await client.aclose()

    def _reachable_url(self) -> str:
        if self._url is None:
            message = "this store has a blocking client only: pass async_client=… or url=… as well"
            raise ConfigurationError(message)
        return self._url

    def _check_open(self) -> None:
        if self._closed:
            message = "this store is closed"
            raise ClosedError(message)


def _checked(url: str) -> str:
    """The URL, with Valkey's schemes written as Redis's."""
    for valkey, plain in (("valkey://", "redis://"), ("valkeys://", "rediss://")):
        if url.startswith(valkey):
            url = plain + url.removeprefix(valkey)
    try:
        parse_url(url)  # type: ignore[no-untyped-call]  # redis-py left it without annotations
    except ValueError as error:
        message = (
            "url is no Redis URL: pass redis://…, rediss://… or unix://…, "
            "as url=… or in CONVSYNC_STORE_URL"
        )
        raise ConfigurationError(message) from error
    return url


def _unavailable(error: redis.RedisError) -> StoreUnavailableError:
    hint = next((hint for kind, hint in _HINTS if isinstance(error, kind)), "see the cause")
    return StoreUnavailableError(f"Redis did not do its work ({error}): {hint}")
