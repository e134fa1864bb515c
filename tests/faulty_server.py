"""An HTTP server over real TCP that answers exactly as badly as a test asks for.

A *script* gets the request and yields what to do: bytes are sent, a number is a pause in seconds,
:data:`HANG` waits until the client hangs up, :data:`CLOSE` and :data:`RESET` hang up. A script that
just ends leaves the connection open for the next request.
"""

from __future__ import annotations

import asyncio
import io
import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeAlias, TypeVar

import pytest

from langchain_convsync._flow import Flow, Io, arun, run
from langchain_convsync.client import _connections
from langchain_convsync.client._aiohttp import AiohttpWire

T = TypeVar("T")


class Deed:
    """Something a script does other than to send and to pause."""


HANG, CLOSE, RESET = Deed(), Deed(), Deed()


@dataclass(frozen=True)
class Received:
    """A request as it arrived; header names are lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Script: TypeAlias = Callable[[Received], Iterable[bytes | float | Deed]]


def head(status: int = 200, **headers: object) -> bytes:
    """The head of an answer; ``content_length=5`` becomes ``Content-Length: 5``."""
    lines = [f"HTTP/1.1 {status} Status"]
    lines += [f"{name.replace('_', '-').title()}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def sends(*deeds: bytes | float | Deed) -> Script:
    """The same deeds for every request."""
    return lambda _: deeds


def answers(body: object, status: int = 200, **headers: object) -> Script:
    """A well-formed answer: bytes and text as they are, anything else as JSON."""
    if isinstance(body, bytes):
        content = body
    else:
        content = (body if isinstance(body, str) else json.dumps(body)).encode()
    kind = {} if "content_type" in headers else {"content_type": "application/json"}
    return sends(head(status, content_length=len(content), **kind, **headers) + content)


def trickles(whole: bytes, every: float = 0.02) -> Script:
    """One byte at a time."""

    def script(_: Received) -> Iterator[bytes | float]:
        for byte in whole:
            yield bytes([byte])
            yield every

    return script


class FaultyServer:
    """Serves scripts on a loopback port, each connection on a thread of its own.

    Attributes:
        url: Where it is, or was.
        received: Every request, in order.
        accepted: How many connections were opened.
        spoken_on: On how many of them anything was said.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.received: list[Received] = []
        self.accepted = 0
        self.spoken_on = 0
        self._scripts: list[Script] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._tls = tls
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self._listener.getsockname()[1]}"
        self._changed = threading.Condition()
        self._connections: set[socket.socket] = set()
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]

    def plays(self, *scripts: Script) -> None:
        """One script per request; the last one serves all that follow."""
        self._scripts = list(scripts)

    def wait_for(self, told: Callable[[FaultyServer], bool], seconds: float = 60.0) -> bool:
        """Whether the server gets there in time; it is asked after every change."""
        with self._changed:
            return self._changed.wait_for(lambda: told(self), seconds)

    @property
    def connected(self) -> int:
        """Connections that are open now."""
        return len(self._connections)

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        with suppress(OSError), socket.create_connection(self._listener.getsockname()):
            pass  # wakes the accepting thread
        self._threads[0].join()
        self._listener.close()
        with self._changed:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if self._stopped.is_set():
                connection.close()
                return
            with self._changed:
                self.accepted += 1
                self._connections.add(connection)
                self._changed.notify_all()
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with (
            suppress(OSError, EOFError),
            connection,
            self._spoken(connection) as spoken,
            spoken.makefile("rb") as stream,
        ):
            self._converse(spoken, stream)
        with self._changed:
            self._connections.discard(connection)
            self._changed.notify_all()

    def _spoken(self, connection: socket.socket) -> socket.socket:
        return self._tls.wrap_socket(connection, server_side=True) if self._tls else connection

    def _converse(self, connection: socket.socket, stream: io.BufferedReader) -> None:
        stream.peek()
        with self._changed:
            self.spoken_on += 1
            self._changed.notify_all()
        while True:
            request = _request(stream)
            with self._changed:
                self.received.append(request)
                script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
                self._changed.notify_all()
            for deed in script(request):
                self._do(deed, connection)

    def _do(self, deed: bytes | float | Deed, connection: socket.socket) -> None:
        if isinstance(deed, bytes):
            connection.sendall(deed)
            return
        if deed is HANG:
            while connection.recv(65536):
                pass
        elif deed is RESET:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif isinstance(deed, float) and not self._stopped.wait(deed):
            return
        raise EOFError


def _request(stream: io.BufferedReader) -> Received:
    lines: list[str] = []
    while (line := stream.readline()) not in {b"\r\n", b""}:
        lines.append(line.decode("latin-1").rstrip("\r\n"))
    if not lines or not lines[0].endswith("HTTP/1.1"):
        raise EOFError
    method, target, _ = lines[0].split(" ")
    pairs = (line.split(": ", 1) for line in lines[1:])
    headers = {name.lower(): value for name, value in pairs}
    return Received(method, target, headers, stream.read(int(headers.get("content-length", 0))))


Perform: TypeAlias = Callable[[Flow[T] | Io[T]], T]
Mode: TypeAlias = Literal["blocking", "async"]


def blocking(flow: Flow[T]) -> T:
    """Perform a flow on this thread."""
    return run(flow)


def awaited(flow: Flow[T]) -> T:
    """Perform a flow on an event loop of its own."""
    return asyncio.run(arun(flow))


@contextmanager
def over_aiohttp() -> Iterator[None]:
    """Async calls travel over aiohttp, those of a client that was made before included."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_connections, "OwnAsyncWire", AiohttpWire)
        yield


def awaited_over_aiohttp(flow: Flow[T]) -> T:
    """Perform a flow on an event loop of its own, over aiohttp's connections."""
    with over_aiohttp():
        return asyncio.run(arun(flow))


#: The test runs sync and async, and for either async transport; ``perform`` performs a flow in it.
sync_and_async = pytest.mark.parametrize("perform", [blocking, awaited, awaited_over_aiohttp])

#: The test's async calls travel over either transport.
over_either_transport = pytest.mark.usefixtures("transport")
