"""Puts an ASGI application on a socket, without a log of who called."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from langchain_convsync.errors import ConfigurationError


class _Silent(H11Protocol):
    """Logs no request, also where an application sets the loggers up once more."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.access_log = False


def listen(host: str, port: int) -> socket.socket:
    """A listening socket: clients that connect before the server runs wait in its queue.

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
    except (OSError, UnicodeError, ValueError) as error:  # a host that no name can be, too
        reason = getattr(error, "strerror", None) or "not the name or address of a host"
        message = f"cannot listen on {host} port {port}: {reason} (port 0 picks a free one)"
        raise ConfigurationError(message) from error
    return listener


def url_of(listener: socket.socket) -> str:
    """The base URL that the socket answers at."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class PromptServer(uvicorn.Server):
    """A uvicorn server that stops as soon as its work is done.

    uvicorn looks every 0.1 seconds whether it should stop, and again whether it may; this one is
    woken by what it waits for. The grace of running requests is measured outside the event loop,
    so it also ends where a test holds the loop's clock.

    Args:
        config: uvicorn's configuration.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._exit, self._changed = asyncio.Event(), asyncio.Event()
        self.server_state.connections = _WatchedSet(self._changed.set)
        self.server_state.tasks = _WatchedSet(self._changed.set)

    def stop(self) -> None:
        """Make it finish the running requests and end; returns at once, callable in any thread."""
        self.should_exit = True
        self._call_in_loop(self._exit.set)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End on a signal, and at once on a second interrupt."""
        super().handle_exit(sig, frame)
        self._call_in_loop(self._exit.set)
        self._call_in_loop(self._changed.set)

    async def main_loop(self) -> None:
        """Serve until it should end."""
        self._loop = asyncio.get_running_loop()
        while not await self.on_tick(0):  # the tick that renews the Date which answers carry
            with suppress(TimeoutError):
                await asyncio.wait_for(self._exit.wait(), 1.0)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections, finish the running requests, close every connection."""
        await self._stop_listening()
        for listener in sockets or []:
            listener.close()
        await self._finish()
        for task in self.server_state.tasks:
            task.cancel(msg="the time to finish running requests is over")
        for connection in self.server_state.connections:
            connection.transport.abort()
        if not self.force_exit:
            await self.lifespan.shutdown()

    async def _stop_listening(self) -> None:
        # asyncio loses a connection that it has accepted when its server is closed, so accepting
        # ends first, and three rounds later every connection is known.
        loop = asyncio.get_running_loop()
        with suppress(NotImplementedError):  # Windows
            for listener in (each for server in self.servers for each in server.sockets):
                loop.remove_reader(listener)
        for _ in range(3):
            await asyncio.sleep(0)
        for server in self.servers:
            server.close()

    async def _finish(self) -> None:
        state, closing = self.server_state, set[Any]()
        with self._grace() as over:
            while (state.connections or state.tasks) and not (over() or self.force_exit):
                for connection in state.connections - closing:
                    connection.shutdown()
                closing |= state.connections
                self._changed.clear()
                await self._changed.wait()

    @contextmanager
    def _grace(self) -> Iterator[Callable[[], bool]]:
        """Tells whether the time to finish is over, and wakes the wait when it is."""
        seconds, over = self.config.timeout_graceful_shutdown, threading.Event()

        def end() -> None:
            over.set()
            self._call_in_loop(self._changed.set)

        if seconds is None:
            yield over.is_set
            return
        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            yield over.is_set
        finally:
            timer.cancel()
            timer.join()  # it leaves no thread behind

    def _call_in_loop(self, call: Callable[[], None]) -> None:
        if self._loop is not None:  # else it looks before it first waits
            with suppress(RuntimeError):  # the loop is closed: it has ended
                self._loop.call_soon_threadsafe(call)


class _WatchedSet(set[Any]):
    """A set that calls when something joins or leaves it."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        super().__init__()
        self._on_change = on_change

    def add(self, element: Any) -> None:
        super().add(element)
        self._on_change()

    def discard(self, element: Any) -> None:
        super().discard(element)
        self._on_change()


def server_for(app: ASGIApp, *, grace: int, trusted_proxies: Sequence[str] = ()) -> PromptServer:
    """A server that logs no request: their paths hold phone numbers.

    Args:
        app: What it serves.
        grace: Seconds that running requests get when it is stopped.
        trusted_proxies: Addresses and networks whose ``X-Forwarded-For`` tells who calls; no
            other is looked at, and no variable of the environment adds any.
    """
    return PromptServer(
        uvicorn.Config(
            app,
            # The same everywhere: what else is installed must not change how it answers.
            loop="asyncio",
            http=_Silent,
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=bool(trusted_proxies),
            forwarded_allow_ips=list(trusted_proxies),
            timeout_graceful_shutdown=grace,
        )
    )
