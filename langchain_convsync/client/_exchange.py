"""One request and what came of it, whichever way it travelled.

A body is decoded as it arrives and never grows beyond :data:`LARGEST_BODY`: a few kilobytes of gzip
can otherwise become gigabytes of memory.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import httpcore
import httpx

#: Bytes of a decoded body that are read at most.
LARGEST_BODY = 8 * 1024 * 1024

Method: TypeAlias = Literal["GET", "PUT", "POST"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is sent.

    Attributes:
        method: HTTP method.
        url: Absolute URL; holds phone numbers, so it never reaches a log or an error.
        headers: Headers, the secret ones included.
        content: Body.
        most: Bytes of the answer's decoded body that are read at most.
    """

    method: Method
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    content: bytes | None = field(default=None, repr=False)
    most: int = LARGEST_BODY


@dataclass(frozen=True, kw_only=True)
class Failure:
    """No usable answer.

    Attributes:
        kind: What is missing: ``connection`` (nothing or half of it arrived), ``timeout`` (not in
            time), ``content`` (all of it arrived, and it cannot be used), ``size`` (it is larger
            than what is read).
        reason: What happened, for people; never what was sent or received.
        sent: Whether the request may have reached the server.
        cause: The operating system's own error, where there is one, or what the machine lacked.
        hint: What the machine's network may have to do with it.
        shortage: What this process lacks, if that is why: the server has nothing to do with it.
    """

    kind: Literal["connection", "timeout", "content", "size"]
    reason: str
    sent: bool = True
    cause: Exception | None = None
    hint: str = ""
    shortage: str = ""

    def told(self, advice: str) -> str:
        """What happened and what to do next, in one line."""
        return f"{self.reason}: {self.shortage or f'{self.hint}; {advice}'.removeprefix('; ')}"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What arrived.

    Attributes:
        status: HTTP status.
        headers: Headers; found whatever the case of their names.
        body: The decoded body.
        flaw: Why there is no body, although there is a status.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(default=b"", repr=False)
    flaw: Failure | None = None


Outcome: TypeAlias = Answer | Failure

TIMED_OUT = Failure(kind="timeout", reason="no answer in time")
TOO_LATE = Failure(kind="timeout", reason="its time was over before it was sent", sent=False)

#: Raised before the first byte of a request leaves.
_UNSENT = (
    httpx.ConnectError,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
    httpx.LocalProtocolError,
)
#: What an error of a proxy begins with; the rest is the proxy's own words.
_STATUS = re.compile(r"[1-5][0-9]{2}(?=\s|$)", re.ASCII)
_NO_CONNECTION = (ConnectionRefusedError, socket.gaierror)


def failure(error: httpx.RequestError) -> Failure:
    """What a transport's error says, without the URL and the answer that it may hold."""
    if isinstance(error, httpx.ProxyError) and (status := _STATUS.match(str(error))):
        return refused_by_proxy(int(status[0]))
    cause = system_error(error)
    # Other transports than httpcore's call a connection that broke later a ConnectTimeout, too.
    in_connect = isinstance(error.__cause__, httpcore.ConnectTimeout)
    unsent = in_connect or isinstance(error, _UNSENT) or isinstance(cause, _NO_CONNECTION)
    if isinstance(error, httpx.TimeoutException) and (
        in_connect or not isinstance(error, httpx.ConnectTimeout)
    ):
        reason = "no free connection in time" if unsent else TIMED_OUT.reason
        reason = "no connection in time" if in_connect else reason
        return Failure(kind="timeout", reason=reason, sent=not unsent)
    detail = words_of(cause) if cause else type(error).__name__
    reason = f"no connection: {detail}" if unsent else f"the connection broke: {detail}"
    return Failure(kind="connection", reason=reason, sent=not unsent, cause=cause)


def refused_by_proxy(status: int) -> Failure:
    """A proxy that does not let a request through."""
    credentials = ", for credentials" if status == 407 else ""
    return Failure(
        kind="connection",
        reason=f"no connection: the proxy refuses with {status}{credentials}",
        sent=False,
    )


def words_of(cause: OSError) -> str:
    """What an error of the operating system says, without names and numbers of its own."""
    if cause.errno is None or isinstance(cause, ssl.SSLError | socket.gaierror):
        return cause.strerror or type(cause).__name__
    return os.strerror(cause.errno)  # asyncio's own text for it is "Connect call failed"


def system_error(error: BaseException) -> OSError | None:
    """The operating system's error at the bottom of it; httpx's own may hold URL and answer."""
    deepest: OSError | None = None
    found: BaseException | None = error
    while found is not None:
        deepest = found if isinstance(found, OSError) else deepest
        several = found.exceptions if isinstance(found, BaseExceptionGroup) else (None,)
        found = found.__cause__ or found.__context__ or several[0]
    return deepest


class Unusable(Exception):  # noqa: N818 - it carries a failure, control flow between these modules
    """The body cannot be used; ``failure`` says why."""

    def __init__(self, kind: Literal["connection", "content", "size"], reason: str) -> None:
        super().__init__(reason)
        self.failure = Failure(kind=kind, reason=reason)


class Body:
    """Collects an answer's body and decodes it on the way.

    Args:
        headers: The answer's; none where the body was decoded already.
        most: Bytes of it, decoded, that are taken at most.
    """

    def __init__(self, headers: Mapping[str, str], most: int = LARGEST_BODY) -> None:
        named = headers.get("Content-Encoding", "").strip().lower()
        declared = headers.get("Content-Length", "")
        gzip = named in {"gzip", "x-gzip"}
        self._refused = not gzip and named not in {"", "identity"}
        self._gunzip = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS) if gzip else None
        self._parts: list[bytes] = []
        self._room = self._most = most
        self._says_too_much = declared.isdecimal() and int(declared[:20]) > most

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes off the wire.

        Raises:
            Unusable: They are more than allowed, or not in the encoding that was asked for.
        """
        if self._refused:
            raise Unusable("content", "it has a Content-Encoding that was not asked for")
        if self._says_too_much:
            raise self._too_large()
        if self._gunzip is not None:
            try:
                chunk = self._gunzip.decompress(chunk, self._room + 1)
            except zlib.error:
                raise Unusable("content", "it is not gzip although it says so") from None
        self._room -= len(chunk)
        if self._room < 0:
            raise self._too_large()
        self._parts.append(chunk)

    def _too_large(self) -> Unusable:
        return Unusable("size", f"it is larger than {self._most} bytes")

    def content(self) -> bytes:
        """All of it, once nothing more comes.

        Raises:
            Unusable: The end is missing.
        """
        if self._gunzip is not None and self._parts and not self._gunzip.eof:
            raise Unusable("connection", "the connection broke: the end of the answer is missing")
        return b"".join(self._parts)


def read(
    response: httpx.Response, most: int, overdue: Callable[[], bool] = lambda: False
) -> Answer:
    """Read at most so many bytes of an answer, and close it; each chunk asks ``overdue`` first."""
    body = _body_of(response, most)
    try:
        for chunk in _chunks(response):  # type: ignore[union-attr]  # a blocking client's stream is
            if overdue():
                return _flawed(response, TIMED_OUT)
            body.feed(chunk)
        return _whole(response, body)
    except httpx.RequestError as error:
        return _flawed(response, failure(error))
    except Unusable as error:
        return _flawed(response, error.failure)
    finally:
        response.close()


async def aread(response: httpx.Response, most: int) -> Answer:
    """Read at most so many bytes of an answer, and close it."""
    body = _body_of(response, most)
    try:
        async for chunk in _chunks(response):  # type: ignore[union-attr]  # an async client's is
            body.feed(chunk)
        return _whole(response, body)
    except httpx.RequestError as error:
        return _flawed(response, failure(error))
    except Unusable as error:
        return _flawed(response, error.failure)
    finally:
        await response.aclose()


def _chunks(response: httpx.Response) -> httpx.SyncByteStream | httpx.AsyncByteStream:
    # A hook of a lent client may have read it: then it is decoded already.
    return httpx.ByteStream(response.content) if _was_read(response) else response.stream


def _body_of(response: httpx.Response, most: int) -> Body:
    return Body({} if _was_read(response) else response.headers, most)


def _was_read(response: httpx.Response) -> bool:
    return response.is_stream_consumed


def _whole(response: httpx.Response, body: Body) -> Answer:
    return Answer(status=response.status_code, headers=response.headers, body=body.content())


def _flawed(response: httpx.Response, flaw: Failure) -> Answer:
    return Answer(status=response.status_code, headers=response.headers, flaw=flaw)
