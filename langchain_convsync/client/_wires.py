"""How a request travels over our own connections; over a client that was lent: see ``_lent``.

Every wire performs one exchange within so many seconds and answers with an outcome: what fails on
the way is a value, so no error with a URL or an answer in it is ever on the traceback of another.
"""

from __future__ import annotations

import asyncio
import ssl
import weakref
from collections import deque
from typing import Any, Protocol

import httpcore
import httpx

from langchain_convsync._flow import monotonic
from langchain_convsync.client._deadline import AsyncBackend, BlockingBackend, Deadline, current
from langchain_convsync.client._exchange import (
    Outcome,
    Request,
    aread,
    failure,
    read,
)
from langchain_convsync.errors import ClosedError

#: Connections of one wire; more requests than that wait for a free one.
CONNECTIONS = 100
#: Seconds. Node and uvicorn close idle connections after 5 s; a POST on a closing one is ambiguous.
KEEP_ALIVE = 4.0


class Wire(Protocol):
    """Performs exchanges, blocking."""

    def exchange(self, request: Request, seconds: float) -> Outcome:
        """Send a request; what came of it within so many seconds."""

    def close(self) -> None:
        """Close what this wire opened."""


class AsyncWire(Protocol):
    """Performs exchanges on one event loop."""

    async def exchange(self, request: Request, seconds: float) -> Outcome:
        """Send a request; what came of it within so many seconds."""

    async def aclose(self) -> None:
        """Close what this wire opened."""


class _Transport(httpx.HTTPTransport):
    def __init__(self, tls: ssl.SSLContext | None, proxy: httpx.Proxy | None) -> None:
        # httpx has no argument for the network backend; the inherited methods use the pool alone.
        pool = httpcore.ConnectionPool if proxy is None else httpcore.HTTPProxy
        self._pool = pool(
            ssl_context=tls,
            max_connections=CONNECTIONS,
            max_keepalive_connections=CONNECTIONS,
            keepalive_expiry=KEEP_ALIVE,
            network_backend=BlockingBackend(),
            **_by_way_of(proxy, tls),
        )


class _AsyncTransport(httpx.AsyncHTTPTransport):
    def __init__(self, tls: ssl.SSLContext | None, proxy: httpx.Proxy | None) -> None:
        pool = httpcore.AsyncConnectionPool if proxy is None else httpcore.AsyncHTTPProxy
        self._pool = pool(
            ssl_context=tls,
            max_connections=1,
            keepalive_expiry=KEEP_ALIVE,
            network_backend=AsyncBackend(),
            **_by_way_of(proxy, tls),
        )


def _by_way_of(proxy: httpx.Proxy | None, tls: ssl.SSLContext | None) -> dict[str, Any]:
    if proxy is None:
        return {}
    return {
        "proxy_url": str(proxy.url),
        "proxy_auth": proxy.raw_auth,
        "proxy_ssl_context": tls if proxy.url.scheme == "https" else None,
    }


class OwnWire:
    """Our own connections: the deadline holds for every operation on the socket.

    Args:
        tls: How servers prove who they are; None where base_url is plain http.
        proxy: What stands between; None goes straight to the server.
    """

    def __init__(self, tls: ssl.SSLContext | None, proxy: httpx.Proxy | None = None) -> None:
        self._transport = _Transport(tls, proxy)
        # A caller may never close us: then the sockets go with the wire, or with the interpreter.
        self._end = weakref.finalize(self, self._transport.close)

    def exchange(self, request: Request, seconds: float) -> Outcome:
        """Send a request; what came of it within so many seconds."""
        token = current.set(Deadline(seconds))
        try:
            response = self._transport.handle_request(_request(request, pool=seconds))
            return read(response, request.most)
        except httpx.RequestError as error:
            return failure(error)
        finally:
            current.reset(token)

    def close(self) -> None:
        """Close the connections."""
        self._end()


class OwnAsyncWire:
    """Our own connections on one event loop, each with a transport of its own.

    One pool for all, a plain ``httpx.AsyncClient`` under ``asyncio.timeout``, was measured: 1.1 to
    1.2 times the CPU per request with one in flight, but 2.6 to 4.5 times with 50, since httpcore
    scans all connections for every request; and 3 of 60 places to cancel a call at left a
    connection behind. So each transport has one connection, and the waiting is done here.

    An exchange runs in a task that is never cancelled at a place where httpcore would lose track;
    its caller can be cancelled anywhere.
    """

    def __init__(self, tls: ssl.SSLContext | None, proxy: httpx.Proxy | None = None) -> None:
        self._tls, self._proxy = tls, proxy
        self._free = asyncio.Semaphore(CONNECTIONS)
        self._open: set[_AsyncTransport] = set()
        self._idle: deque[tuple[float, _AsyncTransport]] = deque()
        self._closed = False

    async def exchange(self, request: Request, seconds: float) -> Outcome:
        """Send a request; what came of it within so many seconds."""
        deadline = Deadline(seconds)
        try:
            async with asyncio.timeout(seconds):
                await self._free.acquire()
        except TimeoutError:
            return failure(httpx.PoolTimeout(""))
        work = asyncio.create_task(self._exchange(request, deadline))
        work.add_done_callback(lambda _: self._free.release())
        try:
            await asyncio.wait((work,))
        except asyncio.CancelledError:
            deadline.interrupt(work)
            await asyncio.wait((work,))  # it only cleans up: no network is waited for any more
            raise
        return work.result()

    async def _exchange(self, request: Request, deadline: Deadline) -> Outcome:
        if self._closed:
            message = "the client was closed before this call was sent"
            raise ClosedError(message)
        current.set(deadline)
        transport = self._idle.pop()[1] if self._idle else self._opened()
        self._open.add(transport)
        try:
            response = await transport.handle_async_request(_request(request))
            return await aread(response, request.most)
        except httpx.RequestError as error:
            return failure(error)
        finally:
            self._idle.append((monotonic(), transport))
            await self._close_idle()

    def _opened(self) -> _AsyncTransport:
        return _AsyncTransport(self._tls, self._proxy)

    async def _close_idle(self) -> None:
        """Close what was not used for a while: the left end, because the right is used first."""
        while self._idle and (self._closed or self._idle[0][0] + KEEP_ALIVE < monotonic()):
            transport = self._idle.popleft()[1]
            self._open.discard(transport)
            await transport.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        self._closed = True
        cancelled: asyncio.CancelledError | None = None
        for transport in list(self._open):
            try:
                await transport.aclose()
            except asyncio.CancelledError as error:  # its loop ends: the others are closed, too
                cancelled = error
        if cancelled is not None:
            raise cancelled


def _request(request: Request, *, pool: float | None = None) -> httpx.Request:
    return httpx.Request(
        request.method,
        request.url,
        headers=request.headers,
        content=request.content,
        extensions={"timeout": {"pool": pool}},
    )
