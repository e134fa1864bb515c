"""An app behind a real uvicorn, and senders who speak to it byte by byte."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import uvicorn

#: Seconds after which a test gives up on an answer; none is that long in coming.
PATIENCE = 60.0


@contextmanager
def listening(app: Any) -> Iterator[int]:
    """The app with its lifespan, on a port of its own."""
    config = uvicorn.Config(app, port=0, log_config=None, timeout_graceful_shutdown=1)
    listener = config.bind_socket()
    listener.listen()  # who connects before the server runs waits
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


class Sender:
    """One connection, on which a request is written in pieces."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)

    def head(self, path: str, **headers: object) -> None:
        """The request's line and headers; names are written with underscores for dashes."""
        lines = [f"POST {path} HTTP/1.1", "Host: bot.example"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.send("\r\n".join([*lines, "", ""]).encode())

    def send(self, part: bytes) -> None:
        """To a side that may have answered already, and closed: it reads no more."""
        with suppress(ConnectionResetError, BrokenPipeError):
            self._socket.sendall(part)

    def answer(self) -> str:
        """All that comes until the other side closes; with something unread, it resets."""
        told = b""
        with self._socket, suppress(ConnectionResetError):
            while part := self._socket.recv(65536):
                told += part
        return told.decode()

    def abort(self) -> None:
        """Gone, without a word."""
        self._socket.close()
