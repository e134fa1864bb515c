"""How a request travels: over our own connections, or over an httpx client that the caller lent us.

Every wire performs one exchange within so many seconds and answers with an outcome: what fails on
the way is a value, so no error with a URL or an answer in it is ever on the traceback of another.
"""

from __future__ import annotations

import asyncio
import ssl
import weakref
from collections import deque
from typing import Protocol

import httpcore
import httpx

from langchain_convsync._flow import monotonic
from langchain_convsync.client._deadline import AsyncBackend, BlockingBackend, Deadline, current
from langchain_convsync.client._exchange import (
    TIMED_OUT,
    Outcome,
    Request,
    aread,
    failure,
    read,
)
from langchain_convsync.client._redaction import redacted
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
    def __init__(self, tls: ssl.SSLContext | None) -> None:
        # httpx has no argument for the network backend; the inherited methods use the pool alone.
        self._pool = httpcore.ConnectionPool(
            ssl_context=tls,
            max_connections=CONNECTIONS,
            max_keepalive_connections=CONNECTIONS,
            keepalive_expiry=KEEP_ALIVE,
            network_backend=BlockingBackend(),
        )


class _AsyncTransport(httpx.AsyncHTTPTransport):
    def __init__(self, tls: ssl.SSLContext | None) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls,
            max_connections=1,
            keepalive_expiry=KEEP_ALIVE,
            network_backend=AsyncBackend(),
        )


class OwnWire:
    """Our own connections: the deadline holds for every operation on the socket.

    Args:
        tls: How servers prove who they are; None where base_url is plain http.
    """

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        self._transport = _Transport(tls)
        # A caller may never close us: then the sockets go with the wire, or with the interpreter.
        self._end = weakref.finalize(self, self._transport.close)

    def exchange(self, request: Request, seconds: float) -> Outcome:
        """Send a request; what came of it within so many seconds."""
        token = current.set(Deadline(seconds))
        try:
            return read(self._transport.handle_request(_request(request, pool=seconds)))
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

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        self._tls = tls
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
        transport = self._idle.pop()[1] if self._idle else _AsyncTransport(self._tls)
        self._open.add(transport)
        try:
            return await aread(await transport.handle_async_request(_request(request)))
        except httpx.RequestError as error:
            return failure(error)
        finally:
            self._idle.append((monotonic(), transport))
            await self._close_idle()

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


class LentWire:
    """The caller's ``httpx.Client``, with its proxies, certificates and hooks; theirs to close.

    Its socket is out of reach, so the deadline is approximate: no single read outlasts it, and it
    is checked between the chunks of a body. Headers that trickle can outlast it.
    """

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def exchange(self, request: Request, seconds: float) -> Outcome:
        """Send a request; what came of it within about so many seconds."""
        _require_open(closed=self._client.is_closed)
        end = monotonic() + seconds
        prepared = self._client.build_request(
            request.method,
            request.url,
            headers=request.headers,
            content=request.content,
            timeout=seconds,
        )
        with redacted():
            try:
                response = self._client.send(prepared, stream=True, follow_redirects=False)
            except httpx.RequestError as error:
                return failure(error)
            return read(response, overdue=lambda: monotonic() > end)

    def close(self) -> None:
        """Leave the client to its owner."""


class LentAsyncWire:
    """The caller's ``httpx.AsyncClient``; the deadline is a cancellation of its exchange."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def exchange(self, request: Request, seconds: float) -> Outcome:
        """Send a request; what came of it within so many seconds."""
        _require_open(closed=self._client.is_closed)
        prepared = self._client.build_request(
            request.method,
            request.url,
            headers=request.headers,
            content=request.content,
            timeout=seconds,
        )
        with redacted():
            try:
                async with asyncio.timeout(seconds):
                    response = await self._client.send(
                        prepared, stream=True, follow_redirects=False
                    )
                    return await aread(response)
            except httpx.RequestError as error:
                return failure(error)
            except TimeoutError:
                return TIMED_OUT

    async def aclose(self) -> None:
        """Leave the client to its owner."""


def _require_open(*, closed: bool) -> None:
    if closed:
        message = "the httpx client passed as http_client is closed"
        raise ClosedError(message)


def _request(request: Request, *, pool: float | None = None) -> httpx.Request:
    return httpx.Request(
        request.method,
        request.url,
        headers=request.headers,
        content=request.content,
        extensions={"timeout": {"pool": pool}},
    )
