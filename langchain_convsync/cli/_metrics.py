"""``/metrics`` of a worker, on a port of its own."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import TYPE_CHECKING, Any

import typer

from langchain_convsync import _machine, telemetry
from langchain_convsync.errors import ConfigurationError

if TYPE_CHECKING:
    from langchain_convsync.turns import TurnRunner


#: Seconds without another look for connections where none can be accepted; asyncio's are as many.
ACCEPT_PAUSE = 1.0


class _Server(ThreadingTCPServer):
    """http.server's own one asks DNS for its name before it listens."""

    allow_reuse_address = os.name == "posix"  # elsewhere it would let two workers share the port
    daemon_threads = True

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except OSError as error:  # it would be called again at once, and again
            if _machine.noticed(error):
                time.sleep(ACCEPT_PAUSE)
            raise


@contextmanager
def measured(runner: TurnRunner, address: tuple[str, int] | None) -> Iterator[None]:
    """Serve the metrics of a runner at an address while the block lasts; None serves nothing.

    Raises:
        ConfigurationError: The port is taken, or the host is not one of this machine.
    """
    if address is None:
        yield
        return
    try:
        server = _Server(address, _handler(runner))
    except (OSError, UnicodeError, ValueError) as error:  # a host that no name can be, too
        reason = getattr(error, "strerror", None) or "not the name or address of a host"
        message = f"cannot serve metrics on {address[0]} port {address[1]}: {reason}"
        raise ConfigurationError(message) from error
    threading.Thread(target=server.serve_forever, name="convsync-metrics", daemon=True).start()
    host, port = server.server_address[:2]
    typer.echo(f"metrics at http://{host!s}:{port}/metrics")
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def _handler(runner: TurnRunner) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/metrics":
                self.send_error(404)
                return
            body = runner.metrics().encode()
            self.send_response(200)
            self.send_header("Content-Type", telemetry.CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """A worker's terminal is for what its work tells."""

    return Handler
