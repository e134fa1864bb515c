"""Puts an ASGI application on a socket, without a log of who called."""

from __future__ import annotations

import os
import socket

import uvicorn
from starlette.types import ASGIApp

from langchain_convsync.errors import ConfigurationError


def listen(host: str, port: int) -> socket.socket:
    """A listening socket: whoever connects before the server runs waits in its queue.

    Args:
        host: A name or an address of this machine.
        port: 0 picks a free one.

    Raises:
        ConfigurationError: The port is taken, or the host is not one of this machine.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        # With its protocol named, or asyncio leaves Nagle's algorithm on: 40 ms per answer.
        listener = socket.socket(family, kind, protocol)
        try:
            if os.name == "posix":  # elsewhere it would let two servers share the port
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(2048)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        reason = error.strerror or str(error)
        message = f"cannot listen on {host} port {port}: {reason} (port 0 picks a free one)"
        raise ConfigurationError(message) from error
    return listener


def url_of(listener: socket.socket) -> str:
    """The base URL that the socket answers at."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def server_for(app: ASGIApp, *, grace: int) -> uvicorn.Server:
    """A uvicorn server that logs no request: their paths hold phone numbers.

    Args:
        app: What it serves.
        grace: Seconds that running requests get when it is stopped.
    """
    return uvicorn.Server(
        uvicorn.Config(
            app,
            # The same everywhere: what else is installed must not change how it answers.
            loop="asyncio",
            http="h11",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=grace,
        )
    )
