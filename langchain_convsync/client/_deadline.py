"""One deadline around a whole exchange, also where headers or bodies trickle byte by byte.

httpx's timeouts start anew with every read. Here every single operation on the socket gets what is
left of the exchange's time, so no sequence of them can outlast it.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable
from contextvars import ContextVar
from typing import Any, TypeVar

import httpcore

from langchain_convsync._flow import monotonic

T = TypeVar("T")

#: Bytes handed to the kernel at once, so that a slow reader is noticed in between.
_WRITE = 16 * 1024


class Deadline:
    """When an exchange must be over, and whether it waits for the network right now."""

    __slots__ = ("_at", "_in_network")

    def __init__(self, seconds: float) -> None:
        self._at = monotonic() + seconds
        self._in_network = False

    def left(self, expired: type[Exception]) -> float:
        """Seconds left; raises ``expired`` when no time is left."""
        seconds = self._at - monotonic()
        if seconds <= 0:
            raise expired
        return seconds

    def interrupt(self, exchange: asyncio.Task[Any]) -> None:
        """End an exchange where it is safe.

        httpcore loses a place of its pool for good when a cancellation arrives between two of its
        own steps. So the cancellation is delivered inside a network operation, else the next
        one finds the deadline over.
        """
        self._at = float("-inf")
        if self._in_network:
            exchange.cancel()

    async def spend(
        self, expired: type[Exception], operation: Callable[[float], Awaitable[T]]
    ) -> T:
        """Await one network operation, which gets the seconds left."""
        seconds = self.left(expired)
        self._in_network = True
        try:
            return await operation(seconds)
        finally:
            self._in_network = False


#: The deadline of the exchange that the running code is part of.
current: ContextVar[Deadline] = ContextVar("convsync_deadline")


class BlockingBackend(httpcore.NetworkBackend):
    """Opens connections whose every operation ends with the current deadline."""

    def __init__(self) -> None:
        self._inner = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first address that answers; each gets its share of the time left."""
        del timeout
        addresses = _addresses(host, port)
        failed: Exception = httpcore.ConnectError("the host has no address")
        for number, address in enumerate(addresses):
            share = current.get().left(httpcore.ConnectTimeout) / (len(addresses) - number)
            try:
                stream = self._inner.connect_tcp(
                    address, port, share, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
            else:
                return _BlockingStream(stream)
        raise failed


def _addresses(host: str, port: int) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise httpcore.ConnectError(str(error)) from error
    return [str(address[0]) for *_, address in found]


class _BlockingStream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        del timeout
        return self._inner.read(max_bytes, current.get().left(httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        del timeout
        for start in range(0, len(buffer), _WRITE):
            left = current.get().left(httpcore.WriteTimeout)
            self._inner.write(buffer[start : start + _WRITE], left)

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        del timeout
        left = current.get().left(httpcore.ConnectTimeout)
        return _BlockingStream(self._inner.start_tls(ssl_context, server_hostname, left))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class AsyncBackend(httpcore.AsyncNetworkBackend):
    """The same, awaited."""

    def __init__(self) -> None:
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address that answers (anyio tries them in parallel)."""
        del timeout
        stream = await current.get().spend(
            httpcore.ConnectTimeout,
            lambda left: self._inner.connect_tcp(host, port, left, local_address, socket_options),
        )
        return _AsyncStream(stream)


class _AsyncStream(httpcore.AsyncNetworkStream):
    def __init__(self, inner: httpcore.AsyncNetworkStream) -> None:
        self._inner = inner

    async def read(
        self,
        max_bytes: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
    ) -> bytes:
        del timeout
        return await current.get().spend(
            httpcore.ReadTimeout, lambda left: self._inner.read(max_bytes, left)
        )

    async def write(
        self,
        buffer: bytes,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
    ) -> None:
        del timeout
        await current.get().spend(
            httpcore.WriteTimeout, lambda left: self._inner.write(buffer, left)
        )

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
    ) -> httpcore.AsyncNetworkStream:
        del timeout
        try:
            stream = await current.get().spend(
                httpcore.ConnectTimeout,
                lambda left: self._inner.start_tls(ssl_context, server_hostname, left),
            )
        except BaseException:  # httpcore closes the socket on errors, but not when cancelled
            await self._inner.aclose()
            raise
        return _AsyncStream(stream)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
