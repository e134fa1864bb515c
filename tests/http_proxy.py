"""A company's proxy: tunnels, forwards, asks for credentials, or refuses."""

from __future__ import annotations

import base64
import select
import socket
import threading
from contextlib import suppress
from typing import Self
from urllib.parse import urlsplit


class HttpProxy:
    """Serves on a loopback port; every host name leads to this machine.

    Args:
        credentials: ``user:password`` that it asks for; none by default.
        refuses: A status with which it refuses everything.

    Attributes:
        url: Where it is.
        asked: What it was asked for: (method, host or URL).
    """

    def __init__(self, credentials: str | None = None, refuses: int | None = None) -> None:
        self.asked: list[tuple[str, str]] = []
        self._wanted = credentials and base64.b64encode(credentials.encode()).decode()
        self._refuses = refuses
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]
        self._open: set[socket.socket] = set()

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in list(self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._open.add(client)
                thread = threading.Thread(target=self._serve, args=(client,))
                self._threads.append(thread)
                thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError, ValueError):
            head = b""
            while b"\r\n\r\n" not in head:
                if not (part := client.recv(65536)):
                    return
                head += part
            first, *lines = head.split(b"\r\n\r\n")[0].decode().split("\r\n")
            method, target, _ = first.split(" ")
            self.asked.append((method, target))
            told = dict(line.lower().split(": ", 1) for line in lines)
            key = told.get("proxy-authorization", "").removeprefix("basic ")
            if self._refuses is not None or (self._wanted and key != self._wanted.lower()):
                status = f"{self._refuses or 407} No for +51999999999"
                client.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
                return
            url = urlsplit(target if "://" in target else f"//{target}")
            with socket.create_connection(("127.0.0.1", url.port or 80)) as server:
                self._open.add(server)
                if method == "CONNECT":
                    client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                else:
                    path = target.partition(url.netloc)[2]
                    server.sendall(head.replace(target.encode(), path.encode(), 1))
                _pass_on(client, server)
                self._open.discard(server)
        self._open.discard(client)


def _pass_on(one: socket.socket, other: socket.socket) -> None:
    while True:
        for source in select.select([one, other], [], [])[0]:
            if not (data := source.recv(65536)):
                return
            (other if source is one else one).sendall(data)
