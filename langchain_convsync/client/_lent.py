"""How a request travels over an httpx client that the caller lent us.

Its hooks, its auth and its transport are the caller's code, which may raise: a hook that calls
``raise_for_status`` is in httpx's own documentation. What a server answered counts all the same. So
a hook of ours, the client's first, keeps it before the others see it; other requests pass it by.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import httpx

from langchain_convsync._flow import monotonic
from langchain_convsync.client._exchange import (
    LARGEST_BODY,
    TIMED_OUT,
    Answer,
    Body,
    Failure,
    Outcome,
    Request,
    Unusable,
    aread,
    failure,
    read,
)
from langchain_convsync.client._redaction import redacted
from langchain_convsync.errors import ClosedError, loggable


@dataclass(slots=True)
class _Seen:
    """What came back for one request; ``response`` is the last one, ``raw`` a refusal's body."""

    url: httpx.URL
    until: float = math.inf
    response: httpx.Response | None = None
    raw: bytearray = field(default_factory=bytearray)

    def expects(self, response: httpx.Response) -> bool:
        """Note an answer; whether its body is to be kept. Those of an auth flow are not."""
        if response.request.url != self.url:
            return False
        self.response = response
        self.raw.clear()
        return not response.is_success

    def add(self, chunk: bytes) -> None:
        """Keep a part of the body."""
        self.raw += chunk
        if len(self.raw) > LARGEST_BODY or monotonic() > self.until:
            raise httpx.ReadTimeout("")

    def outcome(self, error: Exception) -> Outcome:
        """What an error of the caller's code leaves of the exchange; its text names customers."""
        response, at = self.response, loggable(error)
        if response is None and isinstance(error, httpx.RequestError):
            return failure(error)
        if response is None:
            return Failure(kind="connection", reason=f"the http_client raised {at}")
        status, headers = response.status_code, response.headers
        if response.is_success:  # whoever refuses it knows why
            flaw = Failure(kind="content", reason=f"the http_client refuses it with {at}")
            return Answer(status=status, headers=headers, flaw=flaw)
        body = Body(headers)
        try:
            body.feed(bytes(self.raw))
            return Answer(status=status, headers=headers, body=body.content())
        except Unusable as unusable:
            return Answer(status=status, headers=headers, flaw=unusable.failure)


_seen: ContextVar[_Seen | None] = ContextVar("convsync_seen", default=None)


def _keep(response: httpx.Response) -> None:
    seen = _seen.get()
    if seen is None or not seen.expects(response):
        return
    stream = response.stream
    try:
        for chunk in stream:  # type: ignore[union-attr]  # a blocking client's stream is
            seen.add(chunk)
    finally:
        stream.close()  # type: ignore[union-attr]
    response.stream = httpx.ByteStream(bytes(seen.raw))


async def _akeep(response: httpx.Response) -> None:
    seen = _seen.get()
    if seen is None or not seen.expects(response):
        return
    stream = response.stream
    try:
        async for chunk in stream:  # type: ignore[union-attr]  # an async client's stream is
            seen.add(chunk)
    finally:
        await stream.aclose()  # type: ignore[union-attr]
    response.stream = httpx.ByteStream(bytes(seen.raw))


class LentWire:
    """The caller's ``httpx.Client``, with its proxies, certificates and hooks; theirs to close.

    Its socket is out of reach, so the deadline is approximate: no single read outlasts it, and it
    is checked between the chunks of a body. Headers that trickle can outlast it.
    """

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def exchange(self, request: Request, seconds: float) -> Outcome:
        """Send a request; what came of it within about so many seconds."""
        _require_open(self._client)
        prepared = _prepared(self._client, request, seconds)
        _goes_first(self._client, _keep)
        seen = _Seen(prepared.url, monotonic() + seconds)
        token = _seen.set(seen)
        try:
            with redacted():
                response = self._client.send(prepared, stream=True, follow_redirects=False)
                return read(response, request.most, lambda: monotonic() > seen.until)
        except Exception as error:  # noqa: BLE001 - whatever the caller's code raises ends here
            outcome = seen.outcome(error)
        finally:
            _seen.reset(token)
        _require_open(self._client)
        return outcome

    def close(self) -> None:
        """Leave the client to its owner."""


class LentAsyncWire:
    """The caller's ``httpx.AsyncClient``; the deadline is a cancellation of its exchange."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def exchange(self, request: Request, seconds: float) -> Outcome:
        """Send a request; what came of it within so many seconds."""
        _require_open(self._client)
        prepared = _prepared(self._client, request, seconds)
        _goes_first(self._client, _akeep)
        seen = _Seen(prepared.url)
        token = _seen.set(seen)
        try:
            with redacted():
                async with asyncio.timeout(seconds):
                    response = await self._client.send(
                        prepared, stream=True, follow_redirects=False
                    )
                    return await aread(response, request.most)
        except TimeoutError:
            return TIMED_OUT
        except Exception as error:  # noqa: BLE001 - whatever the caller's code raises ends here
            outcome = seen.outcome(error)
        finally:
            _seen.reset(token)
        _require_open(self._client)
        return outcome

    async def aclose(self) -> None:
        """Leave the client to its owner."""


def _goes_first(client: httpx.Client | httpx.AsyncClient, hook: Callable[..., Any]) -> None:
    hooks = client.event_hooks["response"]
    if hook not in hooks[:1]:
        hooks.insert(0, hook)


def _prepared(
    client: httpx.Client | httpx.AsyncClient, request: Request, seconds: float
) -> httpx.Request:
    return client.build_request(
        request.method,
        request.url,
        headers=request.headers,
        content=request.content,
        timeout=seconds,
    )


def _require_open(client: httpx.Client | httpx.AsyncClient) -> None:
    if client.is_closed:
        message = "the httpx client passed as http_client is closed"
        raise ClosedError(message)
