"""Awaited exchanges over aiohttp, where it is asked for: a fraction of httpx's work per request."""

from __future__ import annotations

import asyncio
import base64
import ssl
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import aiohttp
import httpx
from yarl import URL

from langchain_convsync.client import _wires
from langchain_convsync.client._exchange import (
    TIMED_OUT,
    Answer,
    Body,
    Failure,
    Outcome,
    Request,
    Unusable,
    refused_by_proxy,
    system_error,
    words_of,
)
from langchain_convsync.errors import ClosedError

_NO_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=None)


@dataclass(slots=True)
class _Progress:
    """How far an exchange has come; a deadline alone does not know whether anything was sent."""

    transport: asyncio.Transport | None = None
    response: aiohttp.ClientResponse | None = None

    @property
    def sent(self) -> bool:
        """Whether the request may have left."""
        return self.transport is not None

    def abort(self) -> None:
        """End its connection at once: TLS would wait for the server's farewell."""
        if self.transport is not None:
            self.transport.abort()


_progress: ContextVar[_Progress] = ContextVar("convsync_progress")


class _Connector(aiohttp.TCPConnector):
    async def connect(
        self, req: aiohttp.ClientRequest, *arguments: Any, **options: Any
    ) -> aiohttp.connector.Connection:
        connection = await super().connect(req, *arguments, **options)
        _progress.get().transport = connection.transport
        return connection


class AiohttpWire:
    """Our own connections on one event loop.

    Args:
        tls: How servers prove who they are; None where base_url is plain http.
        proxy: What stands between; None goes straight to the server.
    """

    def __init__(self, tls: ssl.SSLContext | None, proxy: httpx.Proxy | None = None) -> None:
        connector = _Connector(
            limit=_wires.CONNECTIONS,
            keepalive_timeout=_wires.KEEP_ALIVE,
            ssl=True if tls is None else tls,
            resolver=aiohttp.ThreadedResolver(),
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,  # ours knows a limit
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=_NO_TIMEOUT,
            middlewares=(_once,),
        )
        self._proxy = None if proxy is None else str(proxy.url)
        self._credentials = _credentials(proxy)

    async def exchange(self, request: Request, seconds: float) -> Outcome:
        """Send a request; what came of it within so many seconds."""
        progress = _Progress()
        token = _progress.set(progress)
        try:
            async with asyncio.timeout(seconds):
                return await self._exchange(request, progress)
        except asyncio.CancelledError:
            progress.abort()
            task = asyncio.current_task()
            if task is None or task.cancelling() or not self._session.closed:
                raise
            message = "the client was closed before this call was sent"
            raise ClosedError(message) from None  # so does aiohttp tell those in its queue
        except (TimeoutError, aiohttp.ClientError, OSError, _Broken) as error:
            progress.abort()
            failed = _failure(error, sent=progress.sent)
        finally:
            _progress.reset(token)
        if progress.response is None:
            return failed
        return _answer(progress.response, flaw=failed)

    async def _exchange(self, request: Request, progress: _Progress) -> Answer:
        url = URL(request.url, encoded=True)
        # A tunnel is asked for by a request of its own; else the proxy reads ours.
        tunnel = url.scheme == "https"
        async with self._session.request(
            request.method,
            url,
            headers=request.headers if tunnel else {**request.headers, **self._credentials},
            data=request.content,
            allow_redirects=False,
            proxy=self._proxy,
            proxy_headers=self._credentials if tunnel else None,
        ) as response:
            progress.response = response
            try:
                body = Body(response.headers, request.most)
                async for chunk in response.content.iter_any():
                    body.feed(chunk)
                return _answer(response, body=body.content())
            except Unusable as unusable:
                progress.abort()
                return _answer(response, flaw=unusable.failure)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._session.close()
        await asyncio.sleep(0)  # one that was aborted, or failed its handshake, is closed by then


def _credentials(proxy: httpx.Proxy | None) -> dict[str, str]:
    if proxy is None or proxy.raw_auth is None:
        return {}
    told = base64.b64encode(b":".join(proxy.raw_auth)).decode()
    return {"Proxy-Authorization": f"Basic {told}"}


class _Broken(Exception):  # noqa: N818 - it carries a cause, control flow inside this module
    """A connection broke."""


async def _once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Sends a request once: by itself, aiohttp repeats a GET or PUT whose connection broke."""
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _Broken from error


def _failure(error: BaseException, *, sent: bool) -> Failure:
    """What an error says, without the URL and the answer that it may hold."""
    if isinstance(error, TimeoutError):
        reason = TIMED_OUT.reason if sent else "no free connection in time"
        return Failure(kind="timeout", reason=reason, sent=sent)
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return refused_by_proxy(error.status)
    cause = system_error(error)
    what = words_of(cause) if cause else type(error.__cause__ or error).__name__
    reason = f"the connection broke: {what}" if sent else f"no connection: {what}"
    return Failure(kind="connection", reason=reason, sent=sent, cause=cause)


def _answer(response: aiohttp.ClientResponse, **facts: Any) -> Answer:
    return Answer(status=response.status, headers=response.headers, **facts)
