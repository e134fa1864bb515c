"""A small HTTP server on loopback, on threads: it needs no extra, no event loop and no clock."""

from __future__ import annotations

import json
import socket
import threading
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

LOOPBACK = "127.0.0.1"


class Request(NamedTuple):
    """What arrived: the path in parts, decoded, and the names of headers in lower case."""

    method: str
    path: list[str]
    headers: Mapping[str, str]
    json: Mapping[str, Any]


class Answer(NamedTuple):
    """What is answered, bytes or JSON; status 0 breaks the connection instead."""

    status: int
    body: Any


class LoopbackServer:
    """Answers each request by a function.

    Args:
        answer: Called with each request, on the thread of its connection.
        port: Where to listen; 0 takes a free port.
    """

    def __init__(self, answer: Callable[[Request], Answer], *, port: int = 0) -> None:
        self.port = port
        self._handler = _handler_of(answer)
        self._stop: weakref.finalize[..., LoopbackServer] | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{LOOPBACK}:{self.port}"

    def start(self) -> None:
        """Listen, on the same port as before; nothing while it is running."""
        if self._stop is None or not self._stop.alive:
            running = _Running(self.port, self._handler)
            self.port = running.port
            self._stop = weakref.finalize(self, running.stop)

    def stop(self) -> None:
        """Close every connection, and the port."""
        if self._stop is not None:
            self._stop()


class _Running:
    """From one start to the next stop."""

    def __init__(self, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        self._listener = socket.create_server((LOOPBACK, port))
        self.port: int = self._listener.getsockname()[1]
        self._handler = handler
        self._lock = threading.Lock()
        self._open: dict[socket.socket, threading.Thread] = {}
        self._stopping = False
        self._thread = threading.Thread(target=self._accept, name="convsync-waha", daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            connection, address = self._listener.accept()
            with self._lock:
                if self._stopping:
                    connection.close()
                    return
                thread = threading.Thread(
                    target=self._serve, args=(connection, address), daemon=True
                )
                self._open[connection] = thread
                thread.start()

    def _serve(self, connection: socket.socket, address: object) -> None:
        with suppress(OSError), connection:
            self._handler(connection, address, self)  # type: ignore[arg-type]  # it needs no server
        with self._lock:
            self._open.pop(connection, None)

    def stop(self) -> None:
        with self._lock:
            self._stopping = True
            left = dict(self._open)
        for connection in left:  # what is asked is answered, and nothing more is read
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RD)
        with suppress(OSError), socket.create_connection((LOOPBACK, self.port)):
            pass  # wakes the accepting thread
        self._thread.join()
        self._listener.close()
        for thread in left.values():
            if thread is not threading.current_thread():
                thread.join()


def _handler_of(answer: Callable[[Request], Answer]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self._do()

        def do_POST(self) -> None:
            self._do()

        def _do(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            names = {name.lower(): value for name, value in self.headers.items()}
            given = answer(_request(self.command, self.path, names, sent))
            if not given.status:
                self.close_connection = True
                return
            raw = isinstance(given.body, bytes)
            body = given.body if raw else json.dumps(given.body).encode()
            self.send_response(given.status)
            self.send_header("Content-Type", f"application/{'octet-stream' if raw else 'json'}")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:  # no customer's text belongs into a log
            pass

    return Handler


def _request(method: str, target: str, headers: Mapping[str, str], raw: bytes) -> Request:
    parts = [unquote(part) for part in urlsplit(target).path.strip("/").split("/")]
    try:
        body = json.loads(raw) if raw else {}
    except ValueError:
        body = {}
    return Request(method, parts, headers, body if isinstance(body, dict) else {})
